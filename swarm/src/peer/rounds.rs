//! The digest decides: a blob is complete, or it begins anew and somebody lied.

use std::collections::BTreeSet;

use shoal_proto::message::{NodeMessage, PeerMessage};
use shoal_proto::{ChunkValue, NodeId, SignedAttestation, SwarmId};

use super::swarm_state::{PastRound, Phase, Swarm};
use super::{FailReason, Key, PeerAction, PeerMachine, Timer};

/// Rounds beyond the first. A tracker begins no more; a node that is told otherwise fails.
const EXTRA_ROUNDS: u32 = 2;

impl PastRound {
    /// Whether exactly these values were checked against the digest and did not match.
    pub(super) fn refutes(&self, values: &[ChunkValue]) -> bool {
        let same = || self.held.iter().map(|held| held.map(|(value, _)| value)).eq(values.iter().map(|v| Some(*v)));
        self.refuted && same()
    }
}

impl PeerMachine {
    pub(super) fn verified(&mut self, signed: &SignedAttestation) {
        for key in self.siblings(&signed.attestation.swarm) {
            self.complete(key, signed);
        }
    }

    fn complete(&mut self, key: Key, signed: &SignedAttestation) {
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
        let told: Vec<NodeId> =
            swarm.neighbours.iter().filter(|(_, other)| other.state_sent).map(|(node, _)| *node).collect();
        for node in told {
            self.to_peer(node, PeerMessage::Complete(signed.clone()));
        }
        self.cancel_all(key);
        if self.session.is_up() {
            self.act(PeerAction::ToTracker(NodeMessage::Complete(signed.clone())));
        }
        for liar in liars {
            self.shun(liar);
        }
    }

    pub(super) fn digest_mismatch(&mut self, id: &SwarmId) {
        let Some(&key) = self.by_id.get(id) else { return };
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        if swarm.phase != Phase::Checking {
            return;
        }
        swarm.phase = Phase::Mismatched;
        let round = past_round(swarm, true);
        if swarm.past.iter().any(|past| past.agrees_with(&round)) {
            self.fail(key, FailReason::WrongBytes);
        } else if id.round >= EXTRA_ROUNDS {
            self.fail(key, FailReason::TooManyRounds);
        } else if !self.session.is_up() {
            self.fail(key, FailReason::NoTracker);
        } else {
            self.act(PeerAction::ToTracker(NodeMessage::Mismatch(id.clone())));
            let until = self.now + self.config.round_wait;
            self.wake_at(until, Timer::RoundWait(key));
        }
    }

    pub(super) fn round_wait_over(&mut self, key: Key) {
        if self.swarms.get(&key).is_some_and(|swarm| swarm.phase == Phase::Mismatched) {
            self.fail(key, FailReason::NoTracker);
        }
    }

    fn fail(&mut self, key: Key, why: FailReason) {
        if let Some(swarm) = self.swarms.get(&key) {
            let swarm = swarm.id.clone();
            self.leave(key);
            self.act(PeerAction::Failed { swarm, why });
        }
    }

    /// The tracker says that a round is over.
    pub(super) fn new_round(&mut self, new: &SwarmId) {
        let old = self.siblings(new).into_iter().find(|key| {
            self.swarms.get(key).is_some_and(|swarm| {
                swarm.id.origin == new.origin && swarm.id.round < new.round && swarm.phase != Phase::Complete
            })
        });
        let Some(key) = old else { return };
        // What this node verified once needs no round.
        if self.swarms.get(&key).is_some_and(|swarm| swarm.own_map.is_some()) {
            return;
        }
        if new.round > EXTRA_ROUNDS {
            self.fail(key, FailReason::TooManyRounds);
            return;
        }
        let Ok(layout) = new.layout() else { return };
        let Some(mut before) = self.remove_swarm(key) else { return };
        let mut swarm = Swarm::new(new.clone(), layout);
        let refuted = before.phase == Phase::Mismatched;
        swarm.wants = before.wants;
        swarm.may_lease = before.may_lease;
        swarm.past = std::mem::take(&mut before.past);
        swarm.past.push(past_round(&before, refuted));
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

fn past_round(swarm: &Swarm, refuted: bool) -> PastRound {
    let held = (0..swarm.chunks()).map(|chunk| {
        let claim = swarm.held_claim(chunk)?;
        Some((swarm.evidence.value(chunk, claim)?, swarm.evidence.signer(chunk, claim)?))
    });
    PastRound { held: held.collect(), evidence: swarm.evidence.clone(), refuted }
}

impl PastRound {
    /// Whether two whole readings gave the same bytes: then the origin delivers them. A node that alone may ask
    /// the origin vouches for both.
    fn agrees_with(&self, other: &Self) -> bool {
        self.refuted
            && self.held.len() == other.held.len()
            && self.held.iter().zip(&other.held).all(|(mine, theirs)| match (mine, theirs) {
                (Some((mine, _)), Some((theirs, _))) => mine == theirs,
                _ => false,
            })
    }
}
