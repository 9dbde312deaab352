//! Telling neighbours what is here.

use shoal_proto::message::{Held, PeerMessage, Proof, limit};
use shoal_proto::{ChunkIndex, ChunkSet, NodeId, SignedEntry};

use super::evidence::ClaimRef;
use super::swarm_state::{Phase, Swarm};
use super::{Key, PeerMachine, Timer};

impl Swarm {
    /// The map that backs held chunks, if one does.
    fn map_in_use(&self) -> Option<u8> {
        self.own_map.or_else(|| {
            let first = self.held.iter().find_map(|index| match self.held_claim(index.0) {
                Some(ClaimRef::Map(map)) => Some(map),
                _ => None,
            });
            // Searched only where some neighbour sent a map.
            if self.evidence.maps().is_empty() { None } else { first }
        })
    }

    /// All that is held, with proof; and what did not go into that message.
    fn state(&self) -> (PeerMessage, Option<u8>, Vec<SignedEntry>) {
        let swarm = self.id.clone();
        if let Some((nth, map)) = self.map_in_use().and_then(|nth| Some((nth, self.evidence.map(nth)?))) {
            let mut backed = ChunkSet::empty(self.chunks());
            let mut rest = Vec::new();
            for index in self.held.iter() {
                if self.held_value(index.0) == map.values.get(index.slot()).copied() {
                    backed.insert(index);
                } else {
                    rest.extend(self.signed(index.0));
                }
            }
            let held = if self.phase == Phase::Complete { Held::Complete } else { Held::Some(backed) };
            let attestation = Box::new(map.attestation.clone());
            let proof = Proof::Map { values: map.values.to_vec(), attestation };
            return (PeerMessage::State { swarm, held, proof }, Some(nth), rest);
        }
        let mut entries: Vec<SignedEntry> =
            self.held.iter().filter_map(|index| self.signed(index.0)).collect();
        let rest = entries.split_off(entries.len().min(limit::ENTRIES));
        let mut held = ChunkSet::empty(self.chunks());
        for signed in &entries {
            held.insert(signed.entry.index);
        }
        (PeerMessage::State { swarm, held: Held::Some(held), proof: Proof::Entries(entries) }, None, rest)
    }
}

impl PeerMachine {
    /// Tells a new neighbour all; after this it is told only what changes.
    pub(super) fn send_state(&mut self, key: Key, node: NodeId) {
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let (message, map, rest) = swarm.state();
        let id = swarm.id.clone();
        if let Some(neighbour) = swarm.neighbours.get_mut(&node) {
            neighbour.state_sent = true;
            // One that sent its map knows it.
            neighbour.map_sent = map.or(neighbour.map);
        }
        self.say(node, message);
        for part in rest.chunks(limit::ENTRIES) {
            self.say(node, PeerMessage::Have { swarm: id.clone(), entries: part.to_vec() });
        }
    }

    /// Notes that something is to be announced soon.
    pub(super) fn flush_soon(&mut self, key: Key) {
        let at = self.now + self.config.have_delay;
        if let Some(swarm) = self.swarms.get_mut(&key)
            && swarm.flush_at.is_none()
        {
            swarm.flush_at = Some(at);
            self.wake_at(at, Timer::Flush(key));
        }
    }

    /// Announces what is new, to neighbours and tracker.
    pub(super) fn flush(&mut self, key: Key) {
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        if let Some(at) = swarm.flush_at.take() {
            self.timers.remove(at, Timer::Flush(key));
        }
        let fresh = std::mem::take(&mut swarm.fresh);
        if !fresh.is_empty() {
            self.announce(key, &fresh);
        }
        self.report_progress(key);
    }

    fn announce(&mut self, key: Key, fresh: &[u32]) {
        let Some(swarm) = self.swarms.get(&key) else { return };
        let fresh: Vec<Fresh> = fresh.iter().filter_map(|chunk| Fresh::of(swarm, *chunk)).collect();
        let mut states = Vec::new();
        let mut messages = Vec::new();
        for (node, neighbour) in swarm.neighbours.iter() {
            // What it has itself it need not know of; should it lose it, it says so.
            let needs = |new: &&Fresh| {
                !neighbour.has.contains(ChunkIndex(new.chunk))
                    || swarm.evidence.value(new.chunk, neighbour.claim(new.chunk))
                        != swarm.evidence.value(new.chunk, new.claim)
            };
            if !neighbour.state_sent || neighbour.complete {
                continue;
            }
            let (mut entries, mut indexes) = (Vec::new(), Vec::new());
            for new in fresh.iter().filter(needs) {
                match (&new.entry, new.claim) {
                    (Some(entry), _) => entries.push(entry.clone()),
                    (None, ClaimRef::Map(map)) if neighbour.map_sent == Some(map) => {
                        indexes.push(ChunkIndex(new.chunk));
                    }
                    (None, _) => {
                        states.push(*node);
                        break;
                    }
                }
            }
            let swarm = &swarm.id;
            if !entries.is_empty() {
                messages.push((*node, PeerMessage::Have { swarm: swarm.clone(), entries }));
            }
            if !indexes.is_empty() {
                messages.push((*node, PeerMessage::HaveIndexes { swarm: swarm.clone(), chunks: indexes }));
            }
        }
        for (to, message) in messages {
            self.say(to, message);
        }
        for node in states {
            self.send_state(key, node);
        }
    }
}

/// A chunk to announce.
struct Fresh {
    chunk: u32,
    claim: ClaimRef,
    entry: Option<SignedEntry>,
}

impl Fresh {
    fn of(swarm: &Swarm, chunk: u32) -> Option<Self> {
        let claim = swarm.held_claim(chunk)?;
        Some(Self { chunk, claim, entry: swarm.signed(chunk) })
    }
}
