//! What the tracker machine tells people and metrics.

use std::collections::BTreeMap;

use shoal_proto::{NodeId, RegistryName, SwarmId};

/// What a tracker knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrackerSnapshot {
    /// Connected nodes.
    pub nodes: usize,
    pub swarms: Vec<TrackedSwarm>,
    pub origin_leases: usize,
    pub zone_leases: usize,
    /// Bytes that lease holders reported as read, by origin.
    pub origin_bytes: BTreeMap<RegistryName, u64>,
    /// Leases that ended without progress, since the start.
    pub leases_expired: u64,
    /// Nodes whose claims proved false.
    pub shunned: Vec<NodeId>,
    /// Whether origin leases are given yet; see [`super::TrackerConfig::report_within`].
    pub open: bool,
}

/// One blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackedSwarm {
    pub swarm: SwarmId,
    pub members: usize,
    pub complete: usize,
    /// Chunks that are somewhere in the cluster, of so many.
    pub present: u32,
    pub total: u32,
    pub origin_leases: usize,
    pub zone_leases: usize,
    pub attested: bool,
}
