//! One node's part in the swarms: drives `shoal_swarm`'s peer machine with sockets, disk and origin.

mod actions;
mod driver;
#[cfg(test)]
mod early_losses;
mod fetch;
mod finish;
mod inbox;
mod origin_read;
mod restore;
mod serve;
mod tracker_link;
mod unreachable;
mod write;

pub(crate) use driver::{Driver, DriverParts};
pub(crate) use inbox::{Inbox, Input, Joining, Restored, SwarmHandle};
pub(crate) use restore::{complete_proof, restore, watch_losses};
pub(crate) use serve::{SwarmServer, open};
pub(crate) use tracker_link::{TrackerLink, TrackerQueries, TrackerSource};
pub(crate) use unreachable::Unreachable;
pub(crate) use write::WriteTo;
