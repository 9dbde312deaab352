//! The network that a run is made in: namespaces for machines, bridges for zones, shaped links. All of it is in
//! namespaces of its own, so nothing of the machine's own network changes, and nothing can reach beyond it.

mod counters;
mod goodput;
mod inside;
mod iproute;
mod names;
mod network;
mod plan;

pub(super) use counters::{Counters, Watch};
pub(super) use goodput::{Goodput, measure};
pub(super) use inside::inside;
pub(super) use names::{RunName, remove_leftovers};
pub(super) use network::Network;
pub(super) use plan::{Host, MAX_NODES, MAX_ZONES, Plan};
