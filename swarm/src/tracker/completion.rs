//! A digest matched, or did not.

use std::collections::{BTreeMap, BTreeSet};

use shoal_proto::message::{Held, Membership, TrackerMessage};
use shoal_proto::{NodeId, SignedAttestation, SwarmId};

use super::swarm_state::{Suspicion, Swarm};
use super::{MAX_SHUNNED, NodeKey, SwarmKey, TrackerMachine, round_0};

/// Attestations kept for a swarm: enough to tell the many from the few.
const ATTESTATIONS: usize = 16;

impl TrackerMachine {
    pub(super) fn completed(&mut self, node: NodeKey, signed: SignedAttestation) {
        let id = signed.attestation.swarm.clone();
        let Some(&key) = self.by_id.get(&round_0(&id)) else { return };
        let Some(signer) = self.nodes.get(&node).map(|node| node.info.node) else { return };
        if signer != signed.attestation.signer || self.shunned.contains(&signer) {
            return;
        }
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let Some(may_lease) = swarm.members.get(&node).map(|member| member.may_lease) else { return };
        let known = swarm.attestations.iter().any(|other| other.attestation.signer == signer);
        if !known && swarm.attestations.len() < ATTESTATIONS {
            swarm.attestations.push(signed);
        }
        let current = swarm.id.round == id.round;
        self.join(node, Membership { swarm: id, held: Held::Complete, wants: false, may_lease });
        if current {
            self.blame(key);
        }
    }

    /// The values of this round are the true ones: who signed others before lied.
    fn blame(&mut self, key: SwarmKey) {
        let Some(swarm) = self.swarms.get(&key) else { return };
        if swarm.attested(self.config.attestations).is_none() {
            return;
        }
        let mut liars = BTreeSet::new();
        for chunk in 0..swarm.chunks() {
            // Of several values the tracker does not know the true one; the members do.
            let [(truth, _)] = swarm.claims.of(chunk) else { continue };
            let before = swarm.past.iter().flat_map(|round| round.of(chunk));
            liars.extend(before.filter(|(value, _)| value != truth).map(|(_, signer)| *signer));
        }
        liars.into_iter().for_each(|liar| self.shun(liar));
    }

    /// No leases for this node, and nobody is told of it any more.
    fn shun(&mut self, liar: NodeId) {
        if self.shunned.len() >= MAX_SHUNNED || !self.shunned.insert(liar) {
            return;
        }
        let Some(&key) = self.node_keys.get(&liar) else { return };
        let swarms = self.nodes.get(&key).map(|node| node.swarms.clone()).unwrap_or_default();
        for swarm in swarms {
            self.take_leases_of(swarm, key);
            self.leave(swarm, key);
        }
    }

    pub(super) fn mismatch(&mut self, node: NodeKey, id: &SwarmId) {
        let Some(key) = self.present_round(id).filter(|key| self.is_member(*key, node)) else { return };
        let Some(reporter) = self.nodes.get(&node).map(|node| node.info.node) else { return };
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        if self.shunned.contains(&reporter) {
            return;
        }
        swarm.doubters.insert(reporter);
        // One word against another: who has the bytes whole is believed until more say otherwise.
        let attested = swarm.attested(self.config.attestations).map(|signed| signed.attestation.root);
        let vouching = swarm.attestations.iter().filter(|a| Some(a.attestation.root) == attested).count();
        if swarm.doubters.len() <= vouching || id.round >= self.config.extra_rounds {
            return;
        }
        if attested.is_some() {
            swarm.distrusts_complete = true;
        }
        self.begin_round(key, id.round + 1);
    }

    /// All begin anew; those least likely to have lied before read now.
    pub(super) fn begin_round(&mut self, key: SwarmKey, round: u32) {
        let Some(swarm) = self.swarms.get(&key) else { return };
        let grants: Vec<u64> = swarm.grants.keys().copied().collect();
        for grant in grants {
            self.end_grant(key, grant);
        }
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let next = Swarm::new(SwarmId { round, ..swarm.id.clone() }, swarm.layout);
        let before = std::mem::replace(swarm, next);
        swarm.queued = before.queued;
        swarm.distrusts_complete = before.distrusts_complete;
        swarm.past = before.past;
        swarm.suspicion = before.suspicion;
        for signer in before.claims.signers() {
            swarm.suspicion.entry(signer).or_insert(Suspicion::Signed);
        }
        swarm.past.push(before.claims);
        swarm.members = before.members;
        swarm.lessees = before.lessees;
        let chunks = swarm.chunks();
        swarm.zones = before.zones;
        for zone in swarm.zones.values_mut() {
            zone.places = super::swarm_state::Places::new(chunks);
            zone.grants = 0;
        }
        for member in swarm.members.values_mut() {
            member.neighbours.clear();
        }
        let id = swarm.id.clone();
        let members: BTreeMap<NodeKey, bool> =
            swarm.members.iter().map(|(node, member)| (*node, member.complete)).collect();
        for (node, complete) in &members {
            if !complete {
                self.send(*node, TrackerMessage::Round(id.clone()));
            }
        }
        for node in members.keys() {
            self.top_up(key, *node);
        }
        self.stir(key);
    }
}
