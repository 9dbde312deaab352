//! Who brings which chunks into a zone: each chunk crosses once, to one member, in blob order.

use std::ops::Range;

use shoal_proto::message::LeaseKind;

use super::swarm_state::{Place, Swarm};
use super::{NodeKey, SwarmKey, Timer, TrackerMachine, ZoneKey};

/// How far past a zone's first absent chunk is looked: leases are given in order, so that what can be brought
/// next is near.
const LOOK_AHEAD: u32 = 256;
/// Nodes that are looked at for one lease, besides those that know the source.
const LOOKED_AT: usize = 8;
/// Leases at once that one node is the source of: its slots. At the start one node may have all that the other zones
/// want, and more of them at once would only be told BUSY by it; what they do not get from it, they get from each other.
const SOURCED: usize = 4;

impl TrackerMachine {
    pub(super) fn give_zone_leases(&mut self, key: SwarmKey) {
        let Some(swarm) = self.swarms.get(&key) else { return };
        let zones: Vec<ZoneKey> = swarm.zones.keys().copied().collect();
        let trusted = !swarm.distrusts_complete;
        let Some(swarm) = self.swarms.get(&key) else { return };
        let whole = |zone: &ZoneKey| trusted && self.whole(swarm).any(|(other, _)| other == *zone);
        let mut zones: Vec<ZoneKey> = zones.into_iter().filter(|zone| !whole(zone)).collect();
        // One after another, so that a source with few slots serves all of them.
        while !zones.is_empty() {
            zones.retain(|zone| self.give_zone_lease(key, *zone));
        }
    }

    fn give_zone_lease(&mut self, key: SwarmKey, zone: ZoneKey) -> bool {
        let Some(swarm) = self.swarms.get(&key) else { return false };
        let Some(state) = swarm.zones.get(&zone) else { return false };
        if state.grants >= self.config.leases_per_zone || state.wanting.is_empty() {
            return false;
        }
        let Some((chunks, source)) = self.next_for_zone(swarm, zone) else { return false };
        let lasts = self.lease_time(swarm);
        let Some(info) = self.nodes.get(&source).map(|node| node.info.clone()) else { return false };
        let Some(node) = self.bringer(key, zone, &chunks, source) else { return false };
        self.grant(key, node, Some(zone), chunks, lasts, LeaseKind::Zone(info));
        self.acquaint(key, node, source);
        true
    }

    /// The first chunks that are in the cluster and not in this zone, and one node that has them all.
    fn next_for_zone(&self, swarm: &Swarm, zone: ZoneKey) -> Option<(Range<u32>, NodeKey)> {
        let places = &swarm.zones.get(&zone)?.places;
        let front = places.front();
        let end = front.saturating_add(LOOK_AHEAD).min(places.len());
        for chunk in front..end {
            if places.get(chunk) != Place::Absent {
                continue;
            }
            let Some(source) = self.source(swarm, zone, chunk) else { continue };
            let most = end.min(chunk + self.config.lease_chunks);
            let until = (chunk..most)
                .find(|next| places.get(*next) != Place::Absent || !self.has(swarm, source, *next));
            return Some((chunk..until.unwrap_or(most), source));
        }
        None
    }

    fn is_source(&self, node: NodeKey, zone: ZoneKey) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.zone != zone && !self.shunned.contains(&node.info.node))
    }

    fn has(&self, swarm: &Swarm, node: NodeKey, chunk: u32) -> bool {
        let Some(zone) = self.nodes.get(&node).map(|node| node.zone) else { return false };
        let whole = self.whole(swarm).any(|(other, nodes)| other == zone && nodes.contains(node));
        let first = swarm.zones.get(&zone).is_some_and(|zone| zone.places.get(chunk) == Place::At(node));
        whole || first
    }

    /// A node of another zone that has this chunk. Spread over zones, so that not one node feeds them all.
    fn source(&self, swarm: &Swarm, zone: ZoneKey, chunk: u32) -> Option<NodeKey> {
        let mut rng = self.rng.clone();
        // Differs from chunk to chunk and from zone to zone without being drawn from the one generator.
        rng.seed(self.next_token ^ rng.clone().u64(..) ^ (u64::from(chunk) << 32) ^ u64::from(zone));
        let firsts = swarm.zones.values().filter_map(|other| match other.places.get(chunk) {
            Place::At(node) if swarm.members.contains_key(&node) => Some(node),
            _ => None,
        });
        let whole = self.whole(swarm).filter_map(|(_, nodes)| nodes.draw(&mut rng));
        let load = |node: NodeKey| swarm.grants.values().filter(|grant| grant.source == Some(node)).count();
        let sources = firsts.chain(whole).filter(|node| self.is_source(*node, zone));
        let free = sources.map(|node| (load(node), node)).filter(|(load, _)| *load < SOURCED);
        // Of equals another one after each lease: one that did not deliver is not asked again and again.
        let mut free: Vec<(usize, NodeKey)> = free.collect();
        rng.shuffle(&mut free);
        free.into_iter().min_by_key(|(load, _)| *load).map(|(_, node)| node)
    }

    /// Bringer and source are neighbours from now on; the lease tells the one, and its greeting the other.
    fn acquaint(&mut self, key: SwarmKey, node: NodeKey, source: NodeKey) {
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        if swarm.members.contains_key(&source) {
            for (one, other) in [(node, source), (source, node)] {
                if let Some(member) = swarm.members.get_mut(&one) {
                    member.neighbours.insert(other);
                }
            }
        }
    }

    /// The member that brings the chunks in: who has least to do, and of these one that knows the source. Were it always
    /// somebody new, the source would soon have as many neighbours as it may.
    fn bringer(
        &mut self,
        key: SwarmKey,
        zone: ZoneKey,
        chunks: &Range<u32>,
        source: NodeKey,
    ) -> Option<NodeKey> {
        let swarm = self.swarms.get(&key)?;
        let wanting = &swarm.zones.get(&zone)?.wanting;
        if let Some(node) = self.starving_for(swarm, wanting, chunks) {
            return Some(node);
        }
        let known = swarm.members.get(&source).map(|member| &member.neighbours);
        let knows = |node: &NodeKey| known.is_some_and(|known| known.contains(node));
        let mut drawn = wanting.sample(LOOKED_AT, &mut self.rng);
        drawn.extend(known.into_iter().flatten().filter(|node| wanting.contains(**node)));
        let load = |node: &&NodeKey| (self.nodes.get(*node).map(|known| known.leases), !knows(node));
        let rests = |node: &NodeKey| self.nodes.get(node).is_some_and(|node| node.rests_until > self.now);
        // The first of equals, and the draw is in random order.
        let best = drawn.iter().filter(|node| !rests(node)).min_by_key(load).copied();
        let rested = drawn.iter().filter_map(|node| self.nodes.get(node)).map(|node| node.rests_until).min();
        if best.is_none()
            && let Some(at) = rested
        {
            self.timers.insert((at, Timer::Swarm(key)));
        }
        best
    }
}
