//! A member that finds a chunk with none of its neighbours.

use std::ops::Range;

use shoal_proto::message::limit;
use shoal_proto::{ChunkIndex, SwarmId};

use super::roster::Roster;
use super::swarm_state::{Place, Swarm, is_news};
use super::{NodeKey, SwarmKey, TrackerMachine, ZoneKey};

/// Chunks of one report that are looked at: a node's window.
const LOOKED_AT: usize = 64;
/// Reports after which nodes that call themselves complete are not relied on in this swarm.
const PATIENCE: u32 = 3;
/// Complete nodes named to a member that starves.
const NAMED: usize = 3;

impl TrackerMachine {
    pub(super) fn starved(&mut self, node: NodeKey, id: &SwarmId, chunks: &[ChunkIndex]) {
        let Some(key) = self.present_round(id).filter(|key| self.is_member(*key, node)) else { return };
        let Some(zone) = self.nodes.get(&node).map(|node| node.zone) else { return };
        let mut named = self.whole_copies(key, node, zone);
        if named.is_empty() {
            self.doubt_whole_copies(key, node);
        }
        for index in chunks.iter().take(LOOKED_AT) {
            named.extend(self.holder_or_absent(key, node, zone, index.0));
        }
        named.sort_unstable();
        named.dedup();
        named.truncate(limit::PEERS);
        self.introduce(key, node, &named);
        self.top_up(key, node);
        self.stir(key);
    }

    /// Nodes of this zone that have it whole and are not its neighbours yet.
    fn whole_copies(&mut self, key: SwarmKey, node: NodeKey, zone: ZoneKey) -> Vec<NodeKey> {
        let Some(swarm) = self.swarms.get(&key) else { return Vec::new() };
        let Some(member) = swarm.members.get(&node) else { return Vec::new() };
        let mut rng = self.rng.fork();
        let near = self.whole(swarm).filter(|(other, _)| *other == zone);
        let drawn = near.flat_map(|(_, nodes)| nodes.sample(4 * NAMED, &mut rng));
        drawn.filter(|other| *other != node && !member.neighbours.contains(other)).take(NAMED).collect()
    }

    fn doubt_whole_copies(&mut self, key: SwarmKey, node: NodeKey) {
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        if let Some(member) = swarm.members.get_mut(&node) {
            member.starved += 1;
            swarm.distrusts_complete |= member.starved >= PATIENCE;
        }
    }

    /// A member that found one of these chunks out of reach, if it may take a lease now.
    pub(super) fn starving_for(&self, swarm: &Swarm, among: &Roster, chunks: &Range<u32>) -> Option<NodeKey> {
        let awake = |node: &NodeKey| {
            among.contains(*node) && self.nodes.get(node).is_some_and(|node| node.rests_until <= self.now)
        };
        swarm.starving.range(chunks.clone()).map(|(_, node)| *node).find(awake)
    }

    /// The chunk's known holder, if this member does not know it yet; else the chunk counts as absent, and is leased
    /// again, into the zone or from the origin.
    fn holder_or_absent(
        &mut self,
        key: SwarmKey,
        node: NodeKey,
        zone: ZoneKey,
        chunk: u32,
    ) -> Option<NodeKey> {
        let now = self.now;
        let swarm = self.swarms.get_mut(&key)?;
        let known = &swarm.members.get(&node)?.neighbours;
        let places = &mut swarm.zones.get_mut(&zone)?.places;
        let was_here = matches!(places.get(chunk), Place::At(_));
        let mut unhelpful = None;
        match places.get(chunk) {
            Place::At(holder)
                if holder != node && !known.contains(&holder) && swarm.members.contains_key(&holder) =>
            {
                return Some(holder);
            }
            // Its news and this report crossed.
            Place::At(holder) if swarm.members.contains_key(&holder) && is_news(&swarm.news, now, chunk) => {
                return None;
            }
            Place::At(holder) => {
                unhelpful = Some(holder).filter(|holder| *holder != node);
                places.set(chunk, Place::Absent);
                if swarm.places.get(chunk) == Place::At(holder) {
                    swarm.places.set(chunk, Place::Absent);
                }
            }
            Place::Leased => return None,
            Place::Absent => {}
        }
        // What was not read yet anybody may bring: it is not there to be missed.
        if was_here || swarm.starving.contains_key(&chunk) {
            swarm.starving.insert(chunk, node);
        }
        // It is there and does not deliver, or is gone: others first, when leases are given.
        if let Some(holder) = unhelpful {
            self.rest(holder);
        }
        // In the cluster only as long as a member has it.
        let swarm = self.swarms.get(&key)?;
        let alive = swarm.zones.values().find_map(|other| match other.places.get(chunk) {
            Place::At(holder) if swarm.members.contains_key(&holder) => Some(holder),
            _ => None,
        });
        let swarm = self.swarms.get_mut(&key)?;
        if matches!(swarm.places.get(chunk), Place::At(_)) {
            swarm.places.set(chunk, alive.map_or(Place::Absent, Place::At));
        }
        None
    }
}
