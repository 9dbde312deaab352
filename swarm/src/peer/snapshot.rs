//! What the peer machine tells people and metrics.

use std::collections::BTreeMap;

use shoal_proto::{NodeId, SwarmId};

/// The state of a node's part in the swarms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerSnapshot {
    pub swarms: Vec<SwarmStatus>,
    /// Open links to other nodes.
    pub links: usize,
    /// Chunks being received from, and sent to, peers.
    pub downloads: usize,
    pub uploads: usize,
    pub tracker: bool,
    /// Chunks that did not match, by who sent them.
    pub rejected: BTreeMap<NodeId, u32>,
    pub shunned: Vec<NodeId>,
}

/// One blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwarmStatus {
    pub swarm: SwarmId,
    /// Chunks held, of so many.
    pub held: u32,
    pub total: u32,
    pub complete: bool,
    pub neighbours: usize,
    pub leases: usize,
    pub readers: usize,
}
