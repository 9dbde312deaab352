//! One node: the only place that knows store, swarm, transport, origins and mirror together.
//!
//! [`Node::start`] constructs and connects everything, in one function; [`Node::stop`] drains it.

mod admin;
mod blobs;
mod config;
mod images;
mod lazy;
mod metrics;
mod node;
mod scrape;
mod status;
mod swarm;
#[cfg(test)]
mod testing;

pub use config::{Config, ConfigError, ConfigFile};
pub use node::{Node, StartError, check};
pub use status::{
    BlobStatus, FilesystemStatus, NodeStatus, PeerStatus, ShownImageStatus, SpanStatus, TransferStatus,
    WaitStatus,
};
