//! Chunks that no neighbour has.

use std::time::Duration;

use shoal_proto::message::NodeMessage;
use shoal_proto::{ChunkIndex, ChunkSet, NodeId, SwarmId};

use super::swarm_state::Swarm;
use super::{Key, PeerAction, PeerMachine, Timer};

/// Chunks in one report: the window.
const REPORTED: usize = 64;
/// A chunk that nobody has, while one so far behind it is here, was lost on its way: leases are given in
/// order, and no more than this is leased at once (12 of 16 chunks).
const HOLE: u32 = 192;
/// A chunk may be on its way through so many nodes before it is near: in a large crowd on slow links that takes longer
/// than the shortest time after which a node calls itself starving.
const HOPS: u32 = 6;

impl Swarm {
    /// Missing, not under way, not this node's to read, and nobody near has it.
    fn is_out_of_reach(&self, machine: &PeerMachine, chunk: u32, patience: Duration) -> bool {
        !self.asked.contains_key(&chunk)
            && !self.leases.values().any(|held| held.lease.chunks.contains(&chunk))
            && (self.copies_of(chunk) == 0 || !machine.is_reachable(self, chunk, patience))
    }
}

impl PeerMachine {
    fn delivers(&self, node: &NodeId, patience: Duration) -> bool {
        self.links.get(node).is_some_and(|link| link.delivers(self.now, patience))
    }

    /// How long a neighbour may be busy. As long as this node gets chunks, of whatever blob, it only has to wait its turn:
    /// to read anew what busy neighbours have would make all of them wait longer.
    fn patience(&self, swarm: &Swarm) -> Duration {
        let gets = self.got > swarm.got_before;
        if gets { self.config.starved_every } else { Duration::ZERO }
    }

    fn is_reachable(&self, swarm: &Swarm, chunk: u32, patience: Duration) -> bool {
        let has = |set: &ChunkSet| set.contains(ChunkIndex(chunk));
        swarm.neighbours.iter().any(|(node, other)| {
            has(&other.has)
                && swarm.evidence.counts(chunk, other.claim(chunk))
                && !other.failed.contains(&chunk)
                && self.delivers(node, patience)
                && self.is_usable(node)
        })
    }

    /// For how long nobody near may have a chunk.
    fn starved_after(&self, swarm: &Swarm) -> Duration {
        let spread = self.pace.measured(swarm.layout.chunk_size()).map(|chunk| chunk * HOPS);
        let longest = self.config.starved_every;
        self.config.starved_after.max(spread.unwrap_or_default().min(longest))
    }

    /// Begins to look, unless it does already.
    pub(super) fn watch(&mut self, key: Key) {
        let at = self.now + self.config.starved_after;
        if let Some(swarm) = self.swarms.get_mut(&key)
            && !std::mem::replace(&mut swarm.watched, true)
        {
            self.wake_at(at, Timer::Starving(key));
        }
    }

    /// Looks once per period: who is stuck, or waits in front of a hole, tells the tracker; less and less often.
    pub(super) fn look_for_starving(&mut self, key: Key) {
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        if !swarm.is_fetching() {
            swarm.watched = false;
            return;
        }
        let Some(swarm) = self.swarms.get(&key) else { return };
        let held = swarm.held.count();
        let patience = self.patience(swarm);
        let is_out = |chunk: &u32| swarm.is_out_of_reach(self, *chunk, patience);
        let first = swarm.missing().take(REPORTED).find(is_out);
        let (before, held_before) = swarm.starved;
        let ahead = swarm.held.iter().last().map_or(0, |index| index.0);
        let stuck = held == held_before || first.is_some_and(|first| ahead > first.saturating_add(HOLE));
        let starving = first.is_some() && first == before && stuck;
        let mut report = None;
        if starving && self.session.is_up() && swarm.starved_next <= self.now {
            let out = swarm.missing().take(REPORTED).filter(is_out);
            report = Some((swarm.id.clone(), out.map(ChunkIndex).collect::<Vec<_>>()));
        }
        let period = self.starved_after(swarm);
        let wait = period * 2u32.pow(swarm.starved_times.min(5));
        let wait = wait.min(self.config.starved_every).mul_f64(0.75 + 0.5 * self.rng.f64());
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        swarm.starved = (first, held);
        swarm.got_before = self.got;
        if report.is_some() {
            swarm.starved_times += 1;
            swarm.starved_next = self.now + wait;
        } else if !starving {
            swarm.starved_times = 0;
        }
        if let Some((id, chunks)) = report {
            self.starve(id, chunks);
        }
        let again = self.now + period;
        self.wake_at(again, Timer::Starving(key));
    }

    fn starve(&mut self, swarm: SwarmId, chunks: Vec<ChunkIndex>) {
        self.act(PeerAction::ToTracker(NodeMessage::Starved { swarm, chunks }));
    }
}
