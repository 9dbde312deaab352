//! A digest matched, or did not.

use std::collections::BTreeSet;

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
        let Some(member) = swarm.members.get(&node) else { return };
        let (may_lease, shareable) = (member.may_lease, member.shareable);
        let known = swarm.attestations.iter().any(|other| other.attestation.signer == signer);
        let current = swarm.id.round == id.round;
        let before = swarm.attested(self.config.attestations).is_some();
        if !known && (swarm.attestations.len() < ATTESTATIONS || swarm.readers.contains(&signer)) {
            swarm.attestations.push(signed);
        }
        if !before
            && id.round > 0
            && let Some(signed) = swarm.attested(self.config.attestations).cloned()
        {
            // Until now nobody's map counted.
            let wanting = swarm.members.iter().filter(|(_, member)| !member.complete).map(|(node, _)| *node);
            for node in wanting.collect::<Vec<_>>() {
                self.send(node, TrackerMessage::Attested(signed.clone()));
            }
        }
        self.join(node, Membership { swarm: id, held: Held::Complete, wants: false, may_lease, shareable });
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
        let vouches = |node: &NodeId| {
            let mut attestations = swarm.attestations.iter().map(|signed| &signed.attestation);
            attestations.any(|other| other.signer != *node && other.swarm.round == swarm.id.round)
        };
        let mut liars = BTreeSet::new();
        for chunk in 0..swarm.chunks() {
            // Of several values the tracker does not know the true one; the members do. And who signed for the only one
            // cannot vouch for it.
            let [(truth, reader)] = swarm.claims.of(chunk) else { continue };
            if !vouches(reader) {
                continue;
            }
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
        // Who has the bytes whole is believed while more say so than say otherwise.
        let attested = swarm.attested(self.config.attestations).map(|signed| signed.attestation.root);
        let vouching = swarm.attestations.iter().filter(|a| Some(a.attestation.root) == attested).count();
        if swarm.doubters.len() < vouching || id.round >= self.config.extra_rounds {
            return;
        }
        if swarm.readings_agree() {
            // Told of a round that does not come, it gives up.
            let swarm = SwarmId { round: self.config.extra_rounds + 1, ..id.clone() };
            self.send(node, TrackerMessage::Round { swarm, readers: Vec::new() });
            return;
        }
        // Each node's word counts once: who lies about it cannot do so in each round.
        if swarm.accusers.insert(reporter) {
            self.begin_round(key, id.round + 1, Some(node));
        }
    }

    /// All begin anew, and one reads: who said that the digest does not match, if it may. If what it signs for is
    /// wrong then, it lied, or the origin delivers wrong bytes.
    pub(super) fn begin_round(&mut self, key: SwarmKey, round: u32, accuser: Option<NodeKey>) {
        let Some(swarm) = self.swarms.get(&key) else { return };
        let grants: Vec<u64> = swarm.grants.keys().copied().collect();
        for grant in grants {
            self.end_grant(key, grant);
        }
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let next = Swarm::new(SwarmId { round, ..swarm.id.clone() }, swarm.layout, swarm.since);
        let before = std::mem::replace(swarm, next);
        swarm.queued = before.queued;
        swarm.one_stream = before.one_stream;
        // Somebody lied, and those who call themselves complete may be the ones.
        swarm.distrusts_complete = true;
        swarm.accusers = before.accusers;
        swarm.read_before = before.read_before;
        swarm.read_before.extend(before.readers);
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
        swarm.complete = before.complete;
        for zone in swarm.zones.values_mut() {
            zone.places = super::swarm_state::Places::new(chunks);
            zone.grants = 0;
        }
        for member in swarm.members.values_mut() {
            member.neighbours.clear();
        }
        let members: Vec<NodeKey> = swarm.members.keys().copied().collect();
        self.appoint(key, accuser);
        for node in members {
            self.top_up(key, node);
        }
        self.stir(key);
    }
}
