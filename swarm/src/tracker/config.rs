//! The tracker machine's constants, each with its reason.

use std::time::Duration;

/// How a tracker gives out leases and neighbours.
#[derive(Clone, Debug)]
pub struct TrackerConfig {
    /// Neighbours of a node for one blob. In a simulated crowd 4, 8, 16 and 32 took 1.41, 1.21, 1.19 and 1.18 times the
    /// bound.
    pub neighbours: usize,
    /// Of these, in other zones: they help when the tracker is gone.
    pub far_neighbours: usize,
    /// Neighbours in one rack, as long as there are others.
    pub per_rack: usize,
    /// Adjacent chunks in one lease, at most: few, so that a node that is slower than others has little in its hands. With
    /// eight, among 1,000 nodes at 100 Mbit/s of which each tenth had a tenth of that, the others took up to four times
    /// as long.
    pub lease_chunks: u32,
    /// The same where a MiB comes within milliseconds: then each GET costs more than it brings.
    pub lease_chunks_when_fast: u32,
    /// Origin leases at once for one blob.
    pub leases_per_blob: usize,
    /// The same where a MiB comes within milliseconds: then the time to the origin's first byte is a good part of a
    /// lease, and a lessee's line is shared with what peers send it. At 10 Gbit/s, with 10 ms to the first byte, 300
    /// nodes took 1.30 times the bound with 8 leases and 1.26 with 12. At 50 Mbit/s twelve took longer than eight.
    pub leases_when_fast: usize,
    /// Origin leases for one blob before its first chunk is here; with each chunk that comes there may be one more. The first
    /// chunks get the line for themselves: all readers wait for them.
    pub leases_at_first: usize,
    /// Origin leases begin with the first chunk that is in nobody's hands, for readers begin there. Only a simulation that
    /// shows what this is for does without: then they begin at any such chunk.
    pub leases_in_order: bool,
    /// Origin leases at once for one origin.
    pub leases_per_origin: usize,
    /// Origin leases for one blob that one node holds while others could have them. Two, so that the next one is there
    /// before the last one ends.
    pub leases_per_node: usize,
    /// Zone leases at once for one blob and zone.
    pub leases_per_zone: usize,
    /// A lease without progress ends after this, or three times what its next chunk should take.
    pub lease_time: Duration,
    /// Longest of these.
    pub lease_time_max: Duration,
    /// Longest time that an origin's 429 stops the cluster from asking it.
    pub throttled_max: Duration,
    /// How often a blob begins anew after its digest did not match.
    pub extra_rounds: u32,
    /// Members who must attest a map before the swarm counts as attested.
    pub attestations: usize,
    /// After the start: the time over which nodes report, and the least before an origin lease is given.
    pub report_within: Duration,
    /// Tags, and repositories known to be open, that are remembered. A record takes about half a KiB.
    pub facts: usize,
}

impl Default for TrackerConfig {
    fn default() -> Self {
        Self {
            neighbours: 16,
            far_neighbours: 2,
            per_rack: 2,
            lease_chunks: 4,
            lease_chunks_when_fast: 8,
            leases_per_blob: 6,
            leases_when_fast: 12,
            leases_at_first: 1,
            leases_in_order: true,
            leases_per_origin: 32,
            leases_per_node: 2,
            leases_per_zone: 6,
            lease_time: Duration::from_secs(2),
            lease_time_max: Duration::from_secs(60),
            throttled_max: Duration::from_secs(300),
            extra_rounds: crate::EXTRA_ROUNDS,
            attestations: 1,
            report_within: Duration::from_secs(1),
            facts: 16_384,
        }
    }
}
