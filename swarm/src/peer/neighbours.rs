//! Links, and what neighbours say.

use std::time::Duration;

use shoal_proto::message::{Held, PeerInfo, PeerMessage, Proof};
use shoal_proto::{ChunkIndex, ChunkSet, NodeId, SignedAttestation, SignedEntry, SwarmId};

use super::evidence::ClaimRef;
use super::links::{Link, LinkState};
use super::swarm_state::Phase;
use super::{Key, PeerAction, PeerMachine, REMEMBERED_NODES, Timer};

/// Both ends learn of each other at once; the one with the greater name waits this long for the other's link.
const LET_OTHER_CONNECT: Duration = Duration::from_millis(300);
/// Attempts to reach a neighbour before it is given up.
const ATTEMPTS: u16 = 3;
/// Wait before the second attempt; doubles.
const RECONNECT: Duration = Duration::from_millis(500);

impl PeerMachine {
    pub(super) fn is_up(&self, node: &NodeId) -> bool {
        self.links.get(node).is_some_and(Link::is_up)
    }

    /// Takes a node that the tracker named; at once, and however many there are, where a lease names it.
    pub(super) fn add_neighbour(&mut self, key: Key, info: PeerInfo, leased: bool) {
        let node = info.node;
        let most = if leased { usize::MAX } else { self.config.max_neighbours };
        if node == self.me.node || self.shunned.contains(&node) || !self.note_neighbour(key, node, most) {
            return;
        }
        let first = leased || self.me.node < node;
        let near = info.place.zone == self.me.place.zone;
        let link = self.links.get_or_add(node);
        link.set_info(info, near);
        match link.state {
            LinkState::Up => self.greet(key, node),
            LinkState::Connecting => {}
            LinkState::Down if first => self.connect(node),
            LinkState::Down => {
                let at = self.now + LET_OTHER_CONNECT;
                self.wake_at(at, Timer::Connect(node));
            }
        }
    }

    /// False when there is no room.
    fn note_neighbour(&mut self, key: Key, node: NodeId, most: usize) -> bool {
        let Some(swarm) = self.swarms.get_mut(&key) else { return false };
        if swarm.neighbours.contains_key(&node) {
            return true;
        }
        if swarm.neighbours.len() >= most {
            return false;
        }
        swarm.add_neighbour(node, self.links.key_or_add(node));
        self.links.get_or_add(node).swarms += 1;
        true
    }

    pub(super) fn connect(&mut self, node: NodeId) {
        let Some(link) = self.links.get_mut(&node) else { return };
        if link.state == LinkState::Down
            && link.swarms > 0
            && let Some(info) = link.info().cloned()
        {
            link.state = LinkState::Connecting;
            self.act(PeerAction::Connect(info));
        }
    }

    fn greet(&mut self, key: Key, node: NodeId) {
        let neighbour = self.swarms.get(&key).and_then(|swarm| swarm.neighbours.get(&node));
        if neighbour.is_some_and(|neighbour| !neighbour.state_sent) {
            self.send_state(key, node);
        }
        self.ready.insert(key);
    }

    fn swarms_with(&self, node: &NodeId) -> Vec<Key> {
        self.swarms
            .iter()
            .filter(|(_, swarm)| swarm.neighbours.contains_key(node))
            .map(|(key, _)| *key)
            .collect()
    }

    pub(super) fn link_up(&mut self, node: NodeId) {
        if self.shunned.contains(&node) {
            self.act(PeerAction::Disconnect(node));
            return;
        }
        let link = self.links.get_or_add(node);
        link.state = LinkState::Up;
        link.failures = 0;
        let unused = link.swarms == 0;
        for key in self.swarms_with(&node) {
            self.greet(key, node);
        }
        if unused {
            let at = self.now + self.config.idle_link;
            self.wake_at(at, Timer::IdleLink(node));
        }
    }

    pub(super) fn link_down(&mut self, node: NodeId) {
        self.fail_requests_to(node);
        for key in self.swarms_with(&node) {
            self.forget_chunks_of(key, &node);
        }
        self.try_again(node);
    }

    pub(super) fn connect_failed(&mut self, node: NodeId) {
        // The other side may have been faster.
        if self.links.get(&node).is_some_and(|link| link.state == LinkState::Connecting) {
            self.try_again(node);
        }
    }

    /// What a neighbour has is not known any more; it stays a neighbour.
    fn forget_chunks_of(&mut self, key: Key, node: &NodeId) {
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        if let Some(gone) = swarm.drop_neighbour(node) {
            swarm.add_neighbour(*node, gone.link);
        }
    }

    fn try_again(&mut self, node: NodeId) {
        let Some(link) = self.links.get_mut(&node) else { return };
        link.state = LinkState::Down;
        link.failures += 1;
        if link.failures < ATTEMPTS && link.swarms > 0 && link.info().is_some() {
            let wait = RECONNECT * 2u32.pow((link.failures - 1).into());
            let at = self.now + wait.mul_f64(0.5 + self.rng.f64());
            self.wake_at(at, Timer::Connect(node));
            return;
        }
        for key in self.swarms_with(&node) {
            self.remove_neighbour(key, node);
        }
        self.links.remove(&node);
    }

    pub(super) fn remove_neighbour(&mut self, key: Key, node: NodeId) {
        self.return_zone_leases_of(key, node);
        if let Some(swarm) = self.swarms.get_mut(&key)
            && swarm.drop_neighbour(&node).is_some()
        {
            self.link_unused(node);
        }
    }

    /// A swarm less needs this link.
    pub(super) fn link_unused(&mut self, node: NodeId) {
        let Some(link) = self.links.get_mut(&node) else { return };
        link.swarms = link.swarms.saturating_sub(1);
        if link.swarms == 0 {
            let at = self.now + self.config.idle_link;
            self.wake_at(at, Timer::IdleLink(node));
        }
    }

    pub(super) fn close_if_idle(&mut self, node: NodeId) {
        let idle = self.links.get(&node).is_some_and(|link| link.swarms == 0 && link.requests == 0);
        if !idle {
            return;
        }
        if self.is_up(&node) {
            self.act(PeerAction::Disconnect(node));
        }
        self.links.remove(&node);
    }

    /// This node lied; it is not dealt with any more.
    pub(super) fn shun(&mut self, node: NodeId) {
        if node == self.me.node || self.shunned.len() >= REMEMBERED_NODES || !self.shunned.insert(node) {
            return;
        }
        self.fail_requests_to(node);
        for key in self.swarms_with(&node) {
            self.remove_neighbour(key, node);
        }
        if self.links.remove(&node).is_some_and(|link| link.state != LinkState::Down) {
            self.act(PeerAction::Disconnect(node));
        }
        self.act(PeerAction::Shunned(node));
    }

    pub(super) fn peer_message(&mut self, from: NodeId, message: PeerMessage) {
        if self.shunned.contains(&from) {
            return;
        }
        match message {
            PeerMessage::State { swarm, held, proof } => self.state(from, &swarm, &held, &proof),
            PeerMessage::Have { swarm, entries } => {
                if let Some(&key) = self.by_id.get(&swarm) {
                    self.have(key, from, &entries);
                }
            }
            PeerMessage::HaveIndexes { swarm, chunks } => {
                for key in self.siblings(&swarm) {
                    self.have_indexes(key, from, &chunks);
                }
            }
            PeerMessage::Complete(swarm) => self.neighbour_complete(from, &swarm),
            PeerMessage::Forget { swarm, chunks } => {
                for key in self.siblings(&swarm) {
                    self.neighbour_lost(key, from, &chunks);
                }
            }
            PeerMessage::Leave(swarm) => {
                for key in self.siblings(&swarm) {
                    self.cancel_from(key, from);
                    self.remove_neighbour(key, from);
                }
            }
            PeerMessage::Free => self.has_free_slot(from),
        }
    }

    /// Who was busy is not any more.
    fn has_free_slot(&mut self, node: NodeId) {
        let Some(link) = self.links.get_mut(&node).filter(|link| link.busy_until > self.now) else { return };
        link.busy_until = self.now;
        self.ready.extend(self.swarms_with(&node));
    }

    /// A node says all that it has: it is a neighbour from now on.
    fn state(&mut self, from: NodeId, id: &SwarmId, held: &Held, proof: &Proof) {
        let exact = self.by_id.get(id).copied();
        let keys = match (exact, proof) {
            // An attested map is worth the same whatever the origin; so is what this node can offer to others.
            (_, Proof::Map { .. }) | (None, _) => self.siblings(id),
            (Some(key), _) => vec![key],
        };
        for key in keys {
            let Some(swarm) = self.swarms.get(&key) else { continue };
            let (whole, offers) = (swarm.own_map.is_some(), swarm.serves(id));
            let is_map = matches!(proof, Proof::Map { .. });
            if exact != Some(key) && !(offers || (is_map && !whole)) {
                continue;
            }
            if !self.note_neighbour(key, from, self.config.max_neighbours) {
                // Else it would wait for what is never said, perhaps with a zone's lease in its hands.
                self.say(from, PeerMessage::Leave(id.clone()));
                continue;
            }
            // It can only have come over a link.
            self.links.get_or_add(from).state = LinkState::Up;
            self.take_state(key, from, held, proof);
            self.greet(key, from);
        }
    }

    fn take_state(&mut self, key: Key, from: NodeId, held: &Held, proof: &Proof) {
        match proof {
            Proof::Entries(entries) => self.have(key, from, entries),
            Proof::Map { values, attestation } => self.have_map(key, from, held, values, attestation),
        }
    }

    fn have_map(
        &mut self,
        key: Key,
        from: NodeId,
        held: &Held,
        values: &[shoal_proto::ChunkValue],
        attestation: &SignedAttestation,
    ) {
        let signer = attestation.attestation.signer;
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let refuted = swarm.past.iter().any(|round| round.refutes(values));
        if self.liars.contains(&signer) || refuted {
            return;
        }
        let Some(map) = swarm.evidence.add_map(values, attestation) else { return };
        let chunks = match held {
            Held::Some(chunks) if chunks.len() == swarm.chunks() => chunks.clone(),
            Held::Some(_) => return,
            Held::Complete => ChunkSet::full(swarm.chunks()),
        };
        let Some(neighbour) = swarm.neighbours.get_mut(&from) else { return };
        neighbour.map = Some(map);
        // It knows this map, and so it need not be sent.
        neighbour.map_sent = neighbour.map_sent.or(Some(map));
        neighbour.complete = *held == Held::Complete;
        neighbour.odd.clear();
        neighbour.failed.clear();
        // What the map does not back follows with entries; until then it is not known of what value it is.
        let unbacked: Vec<ChunkIndex> =
            neighbour.has.iter().filter(|index| !chunks.contains(*index)).collect();
        for index in unbacked {
            swarm.note_lacks(&from, index.0);
        }
        for index in chunks.iter() {
            swarm.note_has(&from, index.0, ClaimRef::Map(map));
        }
        self.ready.insert(key);
    }

    pub(super) fn have(&mut self, key: Key, from: NodeId, entries: &[SignedEntry]) {
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        for signed in entries {
            let trusted = signed.entry.swarm == swarm.id && !self.liars.contains(&signed.entry.signer);
            // A map that this node verified decides; entries add nothing to it.
            if !trusted || swarm.phase == Phase::Complete {
                continue;
            }
            if let Some(claim) = swarm.evidence.add(signed) {
                swarm.note_has(&from, signed.entry.index.0, claim);
            }
        }
        self.ready.insert(key);
    }

    fn have_indexes(&mut self, key: Key, from: NodeId, chunks: &[ChunkIndex]) {
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let Some(neighbour) = swarm.neighbours.get_mut(&from) else { return };
        let Some(map) = neighbour.map.or(neighbour.map_sent) else { return };
        neighbour.refers_to(map);
        for index in chunks {
            swarm.note_has(&from, index.0, ClaimRef::Map(map));
        }
        self.ready.insert(key);
    }

    fn neighbour_complete(&mut self, from: NodeId, id: &SwarmId) {
        for key in self.siblings(id) {
            let Some(swarm) = self.swarms.get_mut(&key) else { continue };
            // What this node lacks was announced before.
            if let Some(neighbour) = swarm.neighbours.get_mut(&from) {
                neighbour.complete = true;
            }
        }
    }

    fn neighbour_lost(&mut self, key: Key, from: NodeId, chunks: &[ChunkIndex]) {
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        for index in chunks {
            swarm.note_lacks(&from, index.0);
            // It may want from here what it was not told of.
            if swarm.held.contains(*index) {
                swarm.fresh.push(index.0);
            }
        }
        if let Some(neighbour) = swarm.neighbours.get_mut(&from) {
            neighbour.complete = false;
        }
        self.flush_soon(key);
    }
}
