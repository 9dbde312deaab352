//! The digest decides: a blob is complete, or it begins anew and somebody lied.

use std::collections::BTreeSet;

use shoal_proto::message::{NodeMessage, PeerMessage};
use shoal_proto::{ChunkValue, NodeId, SignedAttestation, SwarmId};

use super::swarm_state::{PastRound, Phase, Swarm};
use super::{FailReason, Key, PeerAction, PeerMachine, REMEMBERED_NODES, Timer};
use crate::EXTRA_ROUNDS;

/// How two readings of a blob compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Same,
    /// As far as known.
    Partial,
    Different,
}

impl PastRound {
    /// Whether exactly these values were checked against the digest and did not match.
    pub(super) fn refutes(&self, values: &[ChunkValue]) -> bool {
        self.refuted.as_deref() == Some(values)
    }

    /// How an earlier reading compares with one that does not have the digest. The same for every chunk, read by this
    /// node itself or by somebody else than now: then the origin delivers these bytes.
    fn compare(&self, now: &Swarm, me: &NodeId) -> Comparison {
        let mut seen = BTreeSet::new();
        let read = self.evidence.all().filter(|(.., signer)| self.evidence.trusts(signer));
        for (chunk, value, signer) in read {
            if now.held_value(chunk) != Some(value) {
                return Comparison::Different;
            }
            if signer == *me || now.voucher(chunk) != Some(signer) {
                seen.insert(chunk);
            }
        }
        if seen.len() == now.chunks() as usize { Comparison::Same } else { Comparison::Partial }
    }
}

impl PeerMachine {
    pub(super) fn verified(&mut self, signed: &SignedAttestation) {
        let id = &signed.attestation.swarm;
        let values = self.swarm(id).and_then(Swarm::values);
        for key in self.siblings(id) {
            // Another swarm's chunks were checked against other entries: the digest says nothing about them unless
            // they are the same.
            if self.by_id.get(id) == Some(&key)
                || (values.is_some() && self.swarms.get(&key).and_then(Swarm::values) == values)
            {
                self.complete(key, signed);
            }
        }
    }

    fn complete(&mut self, key: Key, signed: &SignedAttestation) {
        // Who is told that the blob is whole here has heard of all its chunks.
        self.flush(key);
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        if swarm.phase != Phase::Checking || !swarm.held.is_full() {
            return;
        }
        let Some(values) = swarm.values() else { return };
        let liars: BTreeSet<NodeId> = swarm
            .past
            .iter()
            .flat_map(|round| round.evidence.all())
            .filter(|(chunk, value, _)| values.get(*chunk as usize) != Some(value))
            .map(|(_, _, signer)| signer)
            .collect();
        swarm.complete(signed.clone());
        swarm.readers.clear();
        // Who has it whole has nothing to tell anyway.
        let others = swarm.neighbours.iter().filter(|(_, other)| other.state_sent && !other.complete);
        let told: Vec<NodeId> = others.map(|(node, _)| *node).collect();
        let id = swarm.id.clone();
        for node in told {
            self.say(node, PeerMessage::Complete(id.clone()));
        }
        self.cancel_all(key);
        if self.session.is_up() {
            self.act(PeerAction::ToTracker(NodeMessage::Complete(signed.clone())));
        }
        for liar in liars {
            self.found_lying(liar);
        }
    }

    /// This node vouched for wrong bytes.
    fn found_lying(&mut self, liar: NodeId) {
        if liar != self.me.node && self.liars.len() < REMEMBERED_NODES {
            self.liars.insert(liar);
        }
        self.shun(liar);
    }

    pub(super) fn digest_mismatch(&mut self, id: &SwarmId) {
        let Some(&key) = self.by_id.get(id) else { return };
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        if swarm.phase != Phase::Checking {
            return;
        }
        swarm.phase = Phase::Mismatched;
        let Some(values) = swarm.values() else { return };
        // The bytes hash to all values of this map, and not to the digest: no honest node attested it.
        let refuted = swarm.evidence.maps().iter().find(|map| map.values == values);
        let liar = refuted.map(|map| map.attestation.attestation.signer);
        let swarm = &*swarm;
        let agree = swarm.past.iter().any(|past| past.compare(swarm, &self.me.node) == Comparison::Same);
        if agree {
            self.fail(key, FailReason::WrongBytes);
        } else if id.round >= EXTRA_ROUNDS {
            self.give_up(key);
        } else if !self.session.is_up() {
            self.fail(key, FailReason::NoTracker);
        } else {
            self.act(PeerAction::ToTracker(NodeMessage::Mismatch(id.clone())));
            let until = self.now + self.config.round_wait;
            self.wake_at(until, Timer::RoundWait(key));
        }
        if let Some(liar) = liar {
            self.found_lying(liar);
        }
    }

    pub(super) fn round_wait_over(&mut self, key: Key) {
        if self.swarms.get(&key).is_some_and(|swarm| swarm.phase == Phase::Mismatched) {
            self.fail(key, FailReason::NoTracker);
        }
    }

    /// There are no more rounds. Where no two readings differ, it is the origin's fault.
    fn give_up(&mut self, key: Key) {
        let Some(swarm) = self.swarms.get(&key) else { return };
        let differ = |past: &PastRound| past.compare(swarm, &self.me.node) == Comparison::Different;
        let whole = swarm.held.is_full() && !swarm.past.iter().any(differ);
        self.fail(key, if whole { FailReason::WrongBytes } else { FailReason::TooManyRounds });
    }

    fn fail(&mut self, key: Key, why: FailReason) {
        if let Some(swarm) = self.swarms.get(&key) {
            let swarm = swarm.id.clone();
            self.leave(key);
            self.act(PeerAction::Failed { swarm, why });
        }
    }

    /// The tracker says which round a blob is in, and whose entries count in it.
    pub(super) fn round(&mut self, id: &SwarmId, readers: &[NodeId]) {
        self.new_round(id);
        let Some(&key) = self.by_id.get(id) else { return };
        if let Some(swarm) = self.swarms.get_mut(&key) {
            swarm.evidence.trust(readers);
            self.ready.insert(key);
        }
    }

    fn new_round(&mut self, new: &SwarmId) {
        let old = self.siblings(new).into_iter().find(|key| {
            self.swarms.get(key).is_some_and(|swarm| {
                swarm.id.origin == new.origin && swarm.id.round < new.round && swarm.phase != Phase::Complete
            })
        });
        let Some(key) = old.filter(|_| !self.by_id.contains_key(new)) else { return };
        // What this node verified once needs no round.
        if self.swarms.get(&key).is_some_and(|swarm| swarm.own_map.is_some()) {
            return;
        }
        if new.round > EXTRA_ROUNDS {
            self.give_up(key);
            return;
        }
        let Ok(layout) = new.layout() else { return };
        let Some(mut before) = self.remove_swarm(key) else { return };
        let mut swarm = Swarm::new(new.clone(), layout);
        swarm.wants = before.wants;
        swarm.may_lease = before.may_lease;
        swarm.past = std::mem::take(&mut before.past);
        let refuted = if before.phase == Phase::Mismatched { before.values() } else { None };
        swarm.past.push(PastRound { evidence: before.evidence.clone(), refuted });
        for (reader, mut waiting) in std::mem::take(&mut before.readers) {
            waiting.cursor = waiting.chunks.start;
            swarm.readers.insert(reader, waiting);
        }
        let key = self.add_swarm(swarm);
        self.act(PeerAction::NewRound { old: before.id, new: new.clone() });
        self.session.announce(key);
        self.watch(key);
    }
}
