//! One simulated node.

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Honest,
    /// Sends other bytes than it announced.
    SendsWrongBytes,
    /// Signs for wrong bytes under its leases, and serves those.
    LiesUnderLease,
    /// Accepts requests and never answers.
    Stalls,
    /// Claims all chunks in each round, without a lease, with entries of its own for wrong bytes, which it delivers.
    ClaimsWrongEntries,
    /// The same with a map that it attested.
    AttestsWrongMap,
}

impl Manner {
    /// It does nothing of what its machine would do but to take part.
    pub(super) fn claims_all(self) -> bool {
        matches!(self, Self::ClaimsWrongEntries | Self::AttestsWrongMap)
    }
}

pub struct Sim {
    pub machine: PeerMachine,
    pub info: PeerInfo,
    pub manner: Manner,
    pub alive: bool,
    /// Bytes per second.
    pub up: f64,
    pub down: f64,
    pub(super) up_free: f64,
    pub(super) down_free: f64,
    pub may_lease: bool,
    /// What its chunks hash to, by swarm.
    pub(super) bytes: BTreeMap<SwarmId, BTreeMap<u32, ChunkValue>>,
    pub(super) tick: Option<Time>,
    pub(super) cancelled: BTreeSet<u64>,
    pub(super) cancelled_leases: BTreeSet<LeaseToken>,
    pub(super) linked: BTreeSet<usize>,
    /// What a liar claims to have, in its present round.
    pub(super) claims: Option<SwarmId>,
    pub first_chunk: Option<Time>,
    pub complete: BTreeMap<SwarmId, Time>,
    pub failed: BTreeMap<SwarmId, FailReason>,
    pub shunned: Vec<NodeId>,
    pub from_peers: u64,
    /// Bytes that crossed a link for a transfer that was cancelled or came second.
    pub wasted: u64,
    pub from_other_zones: u64,
    pub mismatches: u32,
    pub busy: u32,
    pub starved: u32,
    pub peak_uploads: usize,
    pub(super) uploads: usize,
}
