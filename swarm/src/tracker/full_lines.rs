//! What the blobs that a node waits for have leased together is as much as one blob may have.
//!
//! The layers of an image come over the same line: a chunk that is read beside those of all other layers comes no sooner
//! than the last of them, and until then nobody can pass it on. With all of them read at once 16 simulated nodes at
//! 50 Mbit/s took 1.8 times the bound for 32 layers of 4 MiB; now 1.2.

use std::time::Duration;

use super::origin_leases::{GATHERING, SMALL, as_f64, step_of};
use super::{NodeKey, SwarmKey, Timer, TrackerMachine};

/// Leases in hand whose next chunks are less than this, and less than the line carries in `SHORT`, may leave it idle: an
/// origin takes a while to its first byte, and so does the way to the tracker and back. Then there may be more.
const LITTLE: f64 = 1536.0 * 1024.0;
const SHORT: Duration = Duration::from_millis(50);

impl TrackerMachine {
    /// Whether the blobs that this node waits for have as many leases together as fill its line. Of a crowd that gathers
    /// those who are here get no more than their part.
    pub(super) fn line_is_full(&mut self, key: SwarmKey, node: NodeKey) -> bool {
        let Some(swarm) = self.swarms.get(&key) else { return false };
        let Some(node) = self.nodes.get(&node) else { return false };
        let Some(origin) = self.origins.get(&swarm.id.origin) else { return false };
        let (mut leases, mut bytes) = (0, 0.0);
        for other in origin.reading.iter().filter(|key| node.swarms.contains(key)) {
            let Some(other) = self.swarms.get(other) else { continue };
            leases += other.origin_grants;
            let grants = u64::try_from(other.origin_grants).unwrap_or(u64::MAX);
            bytes += as_f64(grants.saturating_mul(step_of(&other.layout)));
        }
        let crowd_is_here = swarm.since + GATHERING;
        let gathering = self.now < crowd_is_here;
        let most = self.leases_per_blob(swarm);
        let most = match swarm.lessees.len() {
            // It has nobody to pass chunks on to, so they may as well come all at once.
            ..=1 if !gathering => usize::MAX,
            // Each small blob is a lease or two.
            here if gathering && swarm.layout.size() > SMALL => {
                most.min(here.saturating_mul(self.config.leases_per_node))
            }
            _ => most,
        };
        let enough = origin.pace.map_or(0.0, |pace| SHORT.as_secs_f64() / pace).max(LITTLE);
        let full = leases >= most && bytes >= enough;
        if full && gathering {
            self.timers.insert((crowd_is_here, Timer::Swarm(key)));
        }
        full
    }
}
