//! Who reads in a later round.
//!
//! Somebody lied in the round before, and it is not known who. So one node reads all, and only what it signs for counts:
//! if the digest does not match again, it is known whose word that was.

use shoal_proto::NodeId;
use shoal_proto::message::{TrackerMessage, limit};

use super::{NodeKey, SwarmKey, Timer, TrackerMachine};

/// Leases that fail in a row before somebody else reads.
const GIVEN_UP: u32 = 2;
/// Nodes that are looked at for one that did not read yet.
const LOOKED_AT: usize = 64;

impl TrackerMachine {
    /// The node that reads in this round, if it may have another lease now.
    pub(super) fn reader(&mut self, key: SwarmKey) -> Option<NodeKey> {
        let swarm = self.swarms.get(&key)?;
        let failed = |node: NodeKey| self.nodes.get(&node).is_none_or(|node| node.failures >= GIVEN_UP);
        if swarm.reader.is_none_or(|node| !swarm.lessees.contains(node) || failed(node)) {
            self.appoint(key, None);
            self.rely_on_whole_copy(key);
        }
        let swarm = self.swarms.get(&key)?;
        let reader = swarm.reader.filter(|node| swarm.lessees.contains(*node))?;
        let free = swarm.grants_of(reader, None) < self.config.leases_per_blob;
        let rests_until = self.nodes.get(&reader)?.rests_until;
        if rests_until > self.now {
            self.timers.insert((rests_until, Timer::Swarm(key)));
            return None;
        }
        free.then_some(reader)
    }

    /// Chooses who reads, and tells all. An accuser reads for itself; else somebody new to it, and least likely to
    /// have lied.
    pub(super) fn appoint(&mut self, key: SwarmKey, accuser: Option<NodeKey>) {
        let Some(swarm) = self.swarms.get(&key) else { return };
        let id_of = |node: NodeKey| self.nodes.get(&node).map(|node| node.info.node);
        let rank = |node: &NodeKey| {
            let id = id_of(*node)?;
            let read = (swarm.readers.contains(&id), swarm.read_before.contains(&id));
            Some((Some(*node) == swarm.reader, read, swarm.suspicion(&id)))
        };
        let chosen = accuser.filter(|node| swarm.lessees.contains(*node)).or_else(|| {
            let ranked = swarm.lessees.sample(LOOKED_AT, &mut self.rng).into_iter();
            ranked
                .filter_map(|node| Some((rank(&node)?, node)))
                .min_by_key(|(rank, _)| *rank)
                .map(|(_, node)| node)
        });
        let Some(id) = chosen.and_then(id_of) else {
            // Whoever comes next is told when it reads.
            let members: Vec<NodeKey> = swarm.members.keys().copied().collect();
            self.tell_round(key, members);
            return;
        };
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        swarm.reader = chosen;
        if swarm.readers.last() != Some(&id) {
            self.rely_on(key, id);
        }
    }

    /// The origin cannot be read: one who says that it has all is relied on as well.
    fn rely_on_whole_copy(&mut self, key: SwarmKey) {
        let Some(swarm) = self.swarms.get(&key) else { return };
        let mut rng = self.rng.fork();
        let new = |id: &NodeId| !swarm.readers.contains(id) && !swarm.read_before.contains(id);
        let found = self
            .whole(swarm)
            .flat_map(|(_, nodes)| nodes.sample(LOOKED_AT, &mut rng))
            .filter_map(|node| self.nodes.get(&node).map(|node| node.info.node))
            .find(new);
        if let Some(id) = found {
            self.rely_on(key, id);
        }
    }

    /// What this node vouches for counts from now on.
    fn rely_on(&mut self, key: SwarmKey, id: NodeId) {
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        swarm.readers.retain(|known| *known != id);
        if swarm.readers.len() >= limit::READERS {
            swarm.readers.remove(0);
        }
        swarm.readers.push(id);
        let members: Vec<NodeKey> = swarm.members.keys().copied().collect();
        self.tell_round(key, members);
    }

    /// Tells nodes which round it is, and whose entries count.
    pub(super) fn tell_round(&mut self, key: SwarmKey, nodes: impl IntoIterator<Item = NodeKey>) {
        let Some(swarm) = self.swarms.get(&key) else { return };
        let message = TrackerMessage::Round { swarm: swarm.id.clone(), readers: swarm.readers.clone() };
        let complete = |node: &NodeKey| swarm.members.get(node).is_some_and(|member| member.complete);
        let told: Vec<NodeKey> = nodes.into_iter().filter(|node| !complete(node)).collect();
        for node in told {
            self.send(node, message.clone());
        }
    }
}
