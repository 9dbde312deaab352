//! The network that a run is made in: namespaces for machines, bridges for zones, shaped links. All of it is in
//! namespaces of its own, so nothing of the machine's own network changes, and nothing can reach beyond it.

mod counters;
mod goodput;
mod inside;
mod iproute;
mod names;
mod network;
mod plan;

pub(crate) use counters::{Counters, Watch};
pub(crate) use goodput::{Goodput, measure};
pub(crate) use inside::inside;
pub(crate) use names::{RunName, remove_leftovers};
pub(crate) use network::Network;
pub(crate) use plan::{Host, MAX_NODES, MAX_ZONES, Plan};
