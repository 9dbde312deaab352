//! The peer machine's constants, each with its reason.

use std::time::Duration;

/// How a node takes part in swarms. The defaults are what was simulated and measured; see each field.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// Chunks in flight from peers at once, over all blobs.
    pub downloads: usize,
    /// Chunks sent to peers at once, over all blobs; a peer beyond is told BUSY.
    pub uploads: usize,
    /// The same on slow lines. There requests wait behind chunks in the same queues, for tens of milliseconds, and a slot
    /// is idle meanwhile: 16 nodes at 50 Mbit/s took 1.21 times the bound with four of each, 1.16 with five and 1.12 with
    /// six downloads; with six and seven 1.16 again, for chunks that share a line are passed on later.
    pub downloads_when_slow: usize,
    pub uploads_when_slow: usize,
    /// Times so many slots, and so wide a `window`, on lines on which a MiB takes a few milliseconds. There the time
    /// between chunks counts: in a crowd of 100 at 10 Gbit/s, slots of 4, 6 and 8 took 1.34, 1.24 and 1.23 times the
    /// bound. Letting neighbours wait in a queue instead of telling them BUSY took 1.55 and more: they wait where much is
    /// asked for, while others are idle.
    pub when_fast: usize,
    /// How late a HAVE or a Progress may be so that several travel in one message: about a chunk's time at 10 Gbit/s.
    /// Simulated crowds of 200 to 1,000 nodes took as long with 5 ms, and sent 7 % more; 1 % longer with 12 ms.
    pub have_delay: Duration,
    /// Among how many of the first missing chunks the rarest is chosen. 24 to 48 chunks are
    /// between origin and last node at any time (6 leases of 4 or 8), so a smaller window would stall on them and a larger
    /// one only delays the readers, who wait for the front.
    pub window: usize,
    /// How many missing chunks in front of each waiting reader are asked for before the rarest.
    pub reader_ahead: usize,
    /// Chunks asked of one neighbour at once. Two, so that a fast neighbour never idles between requests. An only
    /// neighbour is asked for as many as there are `downloads`: four gave 1.24 times the rate of two.
    pub per_neighbour: usize,
    /// Neighbours of one blob, named by the tracker or come by themselves; beyond, they are ignored. Thrice what a
    /// tracker gives.
    pub max_neighbours: usize,
    /// A request that takes longer than three times the median is asked of a second peer, held within these two.
    pub hedge_after: (Duration, Duration),
    /// Chunks fetched twice, as a share of the bytes received.
    pub duplicates: f64,
    /// After so many wrong chunks a peer is not dealt with any more.
    pub strikes: u32,
    /// A chunk that no neighbour has had for this long is reported to the tracker.
    pub starved_after: Duration,
    /// Longest wait between two such reports.
    pub starved_every: Duration,
    /// Without a tracker for this long, neighbours in other zones are asked as well: that a pull survives
    /// counts for more than that zones are crossed once.
    pub zones_open_after: Duration,
    /// How long a link that no swarm needs stays open: between the layers of an image it is needed again.
    pub idle_link: Duration,
    /// How long a blob whose digest did not match waits for a new round before it fails.
    pub round_wait: Duration,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            downloads: 4,
            uploads: 4,
            downloads_when_slow: 6,
            uploads_when_slow: 5,
            when_fast: 2,
            have_delay: Duration::from_millis(8),
            window: 64,
            reader_ahead: 2,
            per_neighbour: 2,
            max_neighbours: 48,
            hedge_after: (Duration::from_millis(500), Duration::from_secs(10)),
            duplicates: 0.02,
            strikes: 3,
            starved_after: Duration::from_secs(1),
            starved_every: Duration::from_secs(30),
            zones_open_after: Duration::from_secs(5),
            idle_link: Duration::from_secs(60),
            round_wait: Duration::from_secs(15),
        }
    }
}
