//! Who is whose neighbour.

use std::collections::{BTreeMap, BTreeSet};

use shoal_proto::message::{PeerInfo, TrackerMessage};

use super::swarm_state::Member;
use super::{NodeKey, SwarmKey, TrackerMachine, ZoneKey};

/// Nodes that were drawn for each neighbour looked for; beyond, fewer will do.
const DRAWS: usize = 6;
/// Whole copies of other swarms of the same bytes that are named.
const WHOLE: usize = 4;

impl TrackerMachine {
    /// Gives a member neighbours until it has enough. A newcomer in a large swarm chooses somewhat more than half of
    /// them: the rest choose it.
    pub(super) fn top_up(&mut self, key: SwarmKey, node: NodeKey) {
        let Some(swarm) = self.swarms.get(&key) else { return };
        let Some(member) = swarm.members.get(&node) else { return };
        let all = self.config.neighbours;
        let have = member.neighbours.len();
        // Two who have it whole have nothing for each other.
        if !member.wants || (have > 0 && have >= all / 2) {
            return;
        }
        let want = if swarm.members.len() <= all + 1 { all } else { (all * 5).div_ceil(8) };
        let far = self.config.far_neighbours.min(want);
        let mut chosen = self.near(key, node, want.saturating_sub(have));
        chosen.extend(self.far(key, node, far));
        self.introduce(key, node, &chosen);
    }

    /// Whether another member may be named to this one. Who has many neighbours already keeps room for those that a zone's
    /// lease sends to it.
    fn is_new(&self, key: SwarmKey, node: NodeKey, other: NodeKey, chosen: &[NodeKey]) -> bool {
        let member = self.swarms.get(&key).and_then(|swarm| swarm.members.get(&node));
        other != node
            && !chosen.contains(&other)
            && self.degree(key, other) < 2 * self.config.neighbours
            && member.is_some_and(|member| !member.neighbours.contains(&other))
    }

    fn degree(&self, key: SwarmKey, node: NodeKey) -> usize {
        let member = self.swarms.get(&key).and_then(|swarm| swarm.members.get(&node));
        member.map_or(0, |member| member.neighbours.len())
    }

    /// Members of the same zone; of two drawn the one with fewer neighbours, which has more to give.
    fn near(&mut self, key: SwarmKey, node: NodeKey, want: usize) -> Vec<NodeKey> {
        let mut chosen: Vec<NodeKey> = Vec::new();
        let mut racks: BTreeMap<Box<str>, usize> = BTreeMap::new();
        let Some(zone) = self.nodes.get(&node).map(|node| node.zone) else { return chosen };
        let Some(swarm) = self.swarms.get(&key) else { return chosen };
        let Some(roster) = swarm.zones.get(&zone).map(|zone| &zone.members) else { return chosen };
        let drawn = roster.sample(want.saturating_mul(2 * DRAWS), &mut self.rng);
        // Racks are spread as long as that is possible, then filled.
        for per_rack in [self.config.per_rack, usize::MAX] {
            for pair in drawn.chunks(if roster.len() > drawn.len() { 2 } else { 1 }) {
                let fit = pair.iter().copied().filter(|other| self.is_new(key, node, *other, &chosen));
                let Some(other) = fit.min_by_key(|other| self.degree(key, *other)) else { continue };
                let rack =
                    self.nodes.get(&other).map(|node| node.info.place.rack.clone()).unwrap_or_default();
                let in_rack = racks.entry(rack.clone()).or_default();
                if chosen.len() < want && (rack.is_empty() || *in_rack < per_rack) {
                    *in_rack += 1;
                    chosen.push(other);
                }
            }
        }
        chosen
    }

    /// A few of other zones, and who has the same bytes whole in another swarm.
    fn far(&mut self, key: SwarmKey, node: NodeKey, want: usize) -> Vec<NodeKey> {
        let mut chosen: Vec<NodeKey> = Vec::new();
        let Some(zone) = self.nodes.get(&node).map(|node| node.zone) else { return chosen };
        let Some(swarm) = self.swarms.get(&key) else { return chosen };
        let mut drawn = Vec::new();
        let zones: Vec<ZoneKey> = swarm.zones.keys().copied().filter(|other| *other != zone).collect();
        for _ in 0..want * 2 {
            let Some(other) = self.rng.choice(&zones).and_then(|zone| swarm.zones.get(zone)) else { break };
            // Of two the one with fewer neighbours: who comes early is not known to all in the end.
            let pair = [other.members.draw(&mut self.rng), other.members.draw(&mut self.rng)];
            drawn.extend(pair.into_iter().flatten().min_by_key(|other| self.degree(key, *other)));
        }
        let mut rng = self.rng.fork();
        let whole: Vec<NodeKey> = self
            .whole(swarm)
            .filter(|(other, _)| *other == zone)
            .flat_map(|(_, nodes)| nodes.sample(WHOLE, &mut rng))
            .filter(|node| !swarm.members.contains_key(node))
            .collect();
        for other in drawn.into_iter().take(want * 2) {
            if chosen.len() < want && self.is_new(key, node, other, &chosen) {
                chosen.push(other);
            }
        }
        chosen.extend(whole);
        chosen
    }

    /// Tells both sides of each other.
    pub(super) fn introduce(&mut self, key: SwarmKey, node: NodeKey, others: &[NodeKey]) {
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let id = swarm.id.clone();
        let Some(me) = self.nodes.get(&node).map(|node| node.info.clone()) else { return };
        let distinct: BTreeSet<NodeKey> = others.iter().copied().collect();
        let mut peers: Vec<PeerInfo> = Vec::with_capacity(distinct.len());
        let mut told = Vec::with_capacity(distinct.len());
        for other in distinct {
            let Some(known) = self.nodes.get(&other) else { continue };
            peers.push(known.info.clone());
            if let Some(member) = swarm.members.get_mut(&node) {
                member.neighbours.insert(other);
            }
            // One that is in another swarm of the same bytes answers when it is asked.
            if let Some(member) = swarm.members.get_mut(&other) {
                member.neighbours.insert(node);
                told.push(other);
            }
        }
        if peers.is_empty() {
            return;
        }
        self.send(node, TrackerMessage::Neighbours { swarm: id.clone(), peers });
        for other in told {
            let peers = vec![me.clone()];
            self.send(other, TrackerMessage::Neighbours { swarm: id.clone(), peers });
        }
    }

    /// A member is gone; those who lost it get another if they have few.
    pub(super) fn neighbour_gone(&mut self, key: SwarmKey, gone: NodeKey, member: &Member) {
        for other in &member.neighbours {
            let swarm = self.swarms.get_mut(&key);
            if let Some(known) = swarm.and_then(|swarm| swarm.members.get_mut(other)) {
                known.neighbours.remove(&gone);
                self.top_up(key, *other);
            }
        }
    }
}
