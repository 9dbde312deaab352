//! Nodes come and go, join and leave.

use shoal_proto::message::{Held, Membership, PeerInfo, TrackerMessage};
use shoal_proto::{NodeId, SignedEntry, SwarmId};

use super::swarm_state::{Member, Swarm, Zone};
use super::{MAX_SWARMS, Node, NodeKey, SwarmKey, TrackerMachine, ZoneKey, round_0};
use crate::Time;

/// The entries of a blob of so few chunks go to all who want it, which saves them a hop; those of larger ones travel
/// between neighbours.
const RELAYED: u32 = 4;

impl TrackerMachine {
    pub(super) fn connected(&mut self, info: PeerInfo) {
        self.disconnected(&info.node);
        let key = self.next_node;
        self.next_node += 1;
        let zone = self.zone_key(&info.place.zone);
        self.node_keys.insert(info.node, key);
        let node = Node {
            info,
            zone,
            reported: false,
            swarms: Default::default(),
            leases: 0,
            failures: 0,
            rests_until: Time::ZERO,
        };
        self.nodes.insert(key, node);
        let welcome = TrackerMessage::Welcome { epoch: self.epoch, report_within: self.config.report_within };
        self.send(key, welcome);
    }

    fn zone_key(&mut self, name: &str) -> ZoneKey {
        let next = ZoneKey::try_from(self.zones.len()).unwrap_or(ZoneKey::MAX);
        *self.zones.entry(name.into()).or_insert(next)
    }

    pub(super) fn disconnected(&mut self, id: &NodeId) {
        let Some(key) = self.node_keys.get(id).copied() else { return };
        let swarms = self.nodes.get(&key).map(|node| node.swarms.clone()).unwrap_or_default();
        for swarm in swarms {
            self.leave(swarm, key);
        }
        self.node_keys.remove(id);
        self.nodes.remove(&key);
        self.may_open();
    }

    pub(super) fn leave(&mut self, key: SwarmKey, node: NodeKey) {
        let Some(zone) = self.nodes.get(&node).map(|node| node.zone) else { return };
        let Some(swarm) = self.swarms.get(&key) else { return };
        let blob = (swarm.id.digest, swarm.id.size);
        let of_node = swarm.grants.iter().filter(|(_, grant)| grant.node == node);
        let grants: Vec<u64> = of_node.map(|(counter, _)| *counter).collect();
        for grant in grants {
            self.end_grant(key, grant);
        }
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let Some(member) = swarm.members.remove(&node) else { return };
        swarm.lessees.remove(node);
        if let Some(zone) = swarm.zones.get_mut(&zone) {
            zone.members.remove(node);
            zone.wanting.remove(node);
        }
        let shared = self.blobs.get_mut(&blob).and_then(|blob| blob.complete.get_mut(&zone));
        for roster in shared.into_iter().chain(swarm.complete.get_mut(&zone)) {
            roster.remove(node);
        }
        if let Some(node) = self.nodes.get_mut(&node) {
            node.swarms.remove(&key);
        }
        let empty = swarm.members.is_empty();
        self.stir(key);
        if empty {
            self.forget(key);
            return;
        }
        self.neighbour_gone(key, node, &member);
    }

    fn forget(&mut self, key: SwarmKey) {
        let Some(swarm) = self.swarms.remove(&key) else { return };
        self.unqueue(&swarm, key);
        self.by_id.remove(&round_0(&swarm.id));
        self.stirred.remove(&key);
        let blob = (swarm.id.digest, swarm.id.size);
        if let Some(known) = self.blobs.get_mut(&blob) {
            known.swarms.remove(&key);
            if known.swarms.is_empty() {
                self.blobs.remove(&blob);
            }
        }
    }

    fn swarm_for(&mut self, id: &SwarmId) -> Option<SwarmKey> {
        if let Some(&key) = self.by_id.get(&round_0(id)) {
            return Some(key);
        }
        let layout = id.layout().ok()?;
        if self.swarms.len() >= MAX_SWARMS || id.round > self.config.extra_rounds {
            return None;
        }
        let key = self.next_swarm;
        self.next_swarm += 1;
        self.by_id.insert(round_0(id), key);
        self.blobs.entry((id.digest, id.size)).or_default().swarms.insert(key);
        self.swarms.insert(key, Swarm::new(id.clone(), layout, self.now));
        Some(key)
    }

    pub(super) fn join(&mut self, node: NodeKey, membership: Membership) {
        let Some(key) = self.swarm_for(&membership.swarm) else { return };
        let Some(round) = self.swarms.get(&key).map(|swarm| swarm.id.round) else { return };
        let asked = membership.swarm.round;
        if asked > round && asked <= self.config.extra_rounds && membership.held != Held::Complete {
            // A tracker that came back empty learns of a later round.
            self.begin_round(key, asked, None);
        }
        let complete = membership.held == Held::Complete;
        let new = self.enlist(key, node, &membership);
        let Some(swarm) = self.swarms.get(&key) else { return };
        if !complete && (asked < swarm.id.round || (new && swarm.id.round > 0)) {
            self.tell_round(key, [node]);
        }
        let Some(swarm) = self.swarms.get(&key) else { return };
        if asked == swarm.id.round
            && let Held::Some(held) = &membership.held
            && held.len() == swarm.chunks()
        {
            for index in held.iter() {
                self.present(key, node, index.0);
            }
            self.renew_zone_leases(key, node);
        }
        if new {
            self.welcome_member(key, node);
        }
        self.top_up(key, node);
        self.stir(key);
    }

    /// Notes a node as a member; true when it was none.
    fn enlist(&mut self, key: SwarmKey, node: NodeKey, membership: &Membership) -> bool {
        let Some(known) = self.nodes.get_mut(&node) else { return false };
        known.swarms.insert(key);
        let (zone, trusted) = (known.zone, !self.shunned.contains(&known.info.node));
        let Some(swarm) = self.swarms.get_mut(&key) else { return false };
        let chunks = swarm.chunks();
        let complete = membership.held == Held::Complete;
        let new = !swarm.members.contains_key(&node);
        let member = swarm.members.entry(node).or_insert_with(Member::default);
        // Being authorised anew, it may try again.
        member.refused &= member.may_lease || !membership.may_lease;
        member.wants = membership.wants && !complete;
        member.may_lease = membership.may_lease;
        member.complete = complete;
        member.shareable = membership.shareable;
        swarm.lessees.set(node, member.wants && member.may_lease && !member.refused && trusted);
        let wants = member.wants && trusted;
        let state = swarm.zones.entry(zone).or_insert_with(|| Zone::new(chunks));
        state.members.set(node, trusted);
        state.wanting.set(node, wants);
        let blob = (swarm.id.digest, swarm.id.size);
        let shared = membership.shareable;
        swarm.complete.entry(zone).or_default().set(node, complete && trusted && !shared);
        let whole = self.blobs.entry(blob).or_default().complete.entry(zone).or_default();
        whole.set(node, complete && trusted && shared);
        new
    }

    /// Chunks that came in under zone leases are told by saying anew what is held.
    fn renew_zone_leases(&mut self, key: SwarmKey, node: NodeKey) {
        let Some(swarm) = self.swarms.get(&key) else { return };
        let of_node = swarm.grants.iter().filter(|(_, grant)| grant.node == node && grant.zone.is_some());
        let grants: Vec<u64> = of_node.map(|(counter, _)| *counter).collect();
        for counter in grants {
            self.renew(key, node, counter, 0);
        }
    }

    fn welcome_member(&mut self, key: SwarmKey, node: NodeKey) {
        let Some(swarm) = self.swarms.get(&key) else { return };
        let id = swarm.id.clone();
        let entries = swarm.entries.clone();
        let attested = swarm.attested(self.config.attestations).cloned();
        if let Some(signed) = attested {
            self.send(node, TrackerMessage::Attested(signed));
        } else if !entries.is_empty() {
            self.send(node, TrackerMessage::Entries { swarm: id, entries });
        }
    }

    /// Passes entries of a small blob on to all who want it.
    pub(super) fn relay(&mut self, key: SwarmKey, from: NodeKey, entries: &[&SignedEntry]) {
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        if swarm.chunks() > RELAYED {
            return;
        }
        let known = |signed: &SignedEntry, all: &[SignedEntry]| all.iter().any(|e| e.entry == signed.entry);
        let most = 4 * RELAYED as usize;
        for signed in entries {
            if !known(signed, &swarm.entries) && swarm.entries.len() < most {
                swarm.entries.push(SignedEntry::clone(signed));
            }
        }
        let wanting = swarm.members.iter().filter(|(node, member)| member.wants && **node != from);
        let wanting: Vec<NodeKey> = wanting.map(|(node, _)| *node).collect();
        let id = swarm.id.clone();
        let entries: Vec<SignedEntry> = entries.iter().copied().cloned().collect();
        for node in wanting {
            let message = TrackerMessage::Entries { swarm: id.clone(), entries: entries.clone() };
            self.send(node, message);
        }
    }
}
