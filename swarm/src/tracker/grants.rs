//! The life of a lease: progress, time, return, loss of its holder.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use shoal_proto::message::{Lease, LeaseFailure, LeaseKind, TrackerMessage};
use shoal_proto::{ChunkIndex, Entry, LeaseToken, SignedEntry, SwarmId};

use super::origin_leases::step_of;
use super::swarm_state::{Grant, Place};
use super::{NodeKey, SwarmKey, Timer, TrackerMachine, ZoneKey, round_0};

/// Rest after a lease that failed; doubles up to the longest.
const REST: Duration = Duration::from_millis(500);
const REST_MAX: Duration = Duration::from_secs(30);
/// Shorter reads tell the time of a round trip, not the pace of the origin.
const TELLING: u64 = 256 << 10;

impl TrackerMachine {
    /// The swarm of this name, if it is the present round.
    pub(super) fn present_round(&self, id: &SwarmId) -> Option<SwarmKey> {
        let key = *self.by_id.get(&round_0(id))?;
        (self.swarms.get(&key)?.id.round == id.round).then_some(key)
    }

    pub(super) fn grant(
        &mut self,
        key: SwarmKey,
        node: NodeKey,
        zone: Option<ZoneKey>,
        chunks: Range<u32>,
        lasts: Duration,
        kind: LeaseKind,
    ) {
        let source = match &kind {
            LeaseKind::Origin => None,
            LeaseKind::Zone(info) => self.node_keys.get(&info.node).copied(),
        };
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let counter = self.next_token;
        self.next_token += 1;
        let places = match zone {
            None => Some(&mut swarm.places),
            Some(zone) => swarm.zones.get_mut(&zone).map(|zone| &mut zone.places),
        };
        let mut left = BTreeSet::new();
        if let Some(places) = places {
            left.extend(chunks.clone().filter(|chunk| places.get(*chunk) == Place::Absent));
            left.iter().for_each(|chunk| places.set(*chunk, Place::Leased));
        }
        match zone.and_then(|zone| swarm.zones.get_mut(&zone)) {
            None => swarm.origin_grants += 1,
            Some(zone) => zone.grants += 1,
        }
        let ends = self.now + lasts;
        let grant = Grant { node, zone, source, chunks: chunks.clone(), left, lasts, ends, moved: self.now };
        swarm.grants.insert(counter, grant);
        let token = LeaseToken { epoch: self.epoch, counter };
        let lease = Lease { swarm: swarm.id.clone(), token, chunks, kind, lasts };
        if let Some(node) = self.nodes.get_mut(&node) {
            node.leases += 1;
        }
        self.timers.insert((ends, Timer::LeaseEnds(key, counter)));
        self.send(node, TrackerMessage::Lease(lease));
    }

    /// Takes a lease out of the books; what did not come is absent again.
    pub(super) fn end_grant(&mut self, key: SwarmKey, counter: u64) -> Option<Grant> {
        let swarm = self.swarms.get_mut(&key)?;
        let grant = swarm.grants.remove(&counter)?;
        let origin = swarm.id.origin.clone();
        swarm.origin_grants -= usize::from(grant.zone.is_none());
        let left = swarm.origin_grants;
        let places = match grant.zone {
            None => Some(&mut swarm.places),
            Some(zone) => swarm.zones.get_mut(&zone).map(|zone| {
                zone.grants = zone.grants.saturating_sub(1);
                &mut zone.places
            }),
        };
        if let Some(places) = places {
            grant.left.iter().for_each(|chunk| places.set(*chunk, Place::Absent));
        }
        self.timers.remove(&(grant.ends, Timer::LeaseEnds(key, counter)));
        if let Some(node) = self.nodes.get_mut(&grant.node) {
            node.leases = node.leases.saturating_sub(1);
        }
        if grant.zone.is_none() {
            self.origin_grant_ended(&origin, key, left);
        }
        self.stir(key);
        Some(grant)
    }

    /// A node has a chunk. Whoever held a lease on it need not bring it any more.
    pub(super) fn present(&mut self, key: SwarmKey, node: NodeKey, chunk: u32) {
        let Some((zone, id)) = self.nodes.get(&node).map(|node| (node.zone, node.info.node)) else { return };
        let now = self.now;
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        swarm.starving.remove(&chunk);
        let (mut ended, mut came) = (Vec::new(), false);
        // In a later round a chunk is in the cluster once somebody who counts said so.
        let cluster = swarm.trusts(&id).then_some(None);
        for scope in cluster.into_iter().chain([Some(zone)]) {
            let places = match scope {
                None => Some(&mut swarm.places),
                Some(zone) => swarm.zones.get_mut(&zone).map(|zone| &mut zone.places),
            };
            let Some(places) = places else { continue };
            let before = places.get(chunk);
            if !matches!(before, Place::At(_)) && chunk < places.len() {
                places.set(chunk, Place::At(node));
                self.stirred.insert(key);
                came = true;
            }
            if before == Place::Leased
                && let Some((counter, grant)) =
                    swarm.grants.iter_mut().find(|(_, g)| g.zone == scope && g.left.contains(&chunk))
            {
                grant.left.remove(&chunk);
                if grant.left.is_empty() {
                    ended.push((*counter, grant.node));
                }
            }
        }
        if came {
            swarm.note_news(now, chunk);
        }
        for (counter, holder) in ended {
            if holder != node {
                self.revoke(key, counter, holder);
            }
            self.end_grant(key, counter);
        }
    }

    pub(super) fn revoke(&mut self, key: SwarmKey, counter: u64, holder: NodeKey) {
        let Some(swarm) = self.swarms.get(&key) else { return };
        let token = LeaseToken { epoch: self.epoch, counter };
        let message = TrackerMessage::Revoke { swarm: swarm.id.clone(), token };
        self.send(holder, message);
    }

    /// A member has no use for its leases any more, or is not to use them.
    pub(super) fn take_leases_of(&mut self, key: SwarmKey, node: NodeKey) {
        let Some(swarm) = self.swarms.get(&key) else { return };
        let of_node = swarm.grants.iter().filter(|(_, grant)| grant.node == node);
        let grants: Vec<u64> = of_node.map(|(counter, _)| *counter).collect();
        for counter in grants {
            self.revoke(key, counter, node);
            self.end_grant(key, counter);
        }
    }

    pub(super) fn progress(
        &mut self,
        node: NodeKey,
        id: &SwarmId,
        token: LeaseToken,
        entries: &[SignedEntry],
    ) {
        let Some(key) = self.present_round(id) else { return };
        let Some(me) = self.nodes.get(&node).map(|node| node.info.node) else { return };
        if self.shunned.contains(&me) || !self.is_member(key, node) {
            return;
        }
        let Some(swarm) = self.swarms.get(&key).filter(|swarm| swarm.trusts(&me)) else { return };
        let chunks = swarm.chunks();
        let own = |entry: &Entry| entry.signer == me && entry.swarm == *id && entry.index.0 < chunks;
        let known: Vec<&SignedEntry> = entries.iter().filter(|signed| own(&signed.entry)).collect();
        let is_new = |signed: &&&SignedEntry| swarm.claims.of(signed.entry.index.0).is_empty();
        let new: u64 =
            known.iter().filter(is_new).map(|signed| swarm.layout.len_of(signed.entry.index)).sum();
        // Renewed first: what comes last ends it. What was there before is no progress.
        if token.epoch == self.epoch {
            self.notice_stream(key, node, token.counter, &known);
            if new > 0 {
                self.renew(key, node, token.counter, new);
            }
        }
        for signed in &known {
            let ChunkIndex(chunk) = signed.entry.index;
            if let Some(swarm) = self.swarms.get_mut(&key) {
                let first = swarm.claims.of(chunk).is_empty();
                swarm.claim(chunk, signed.entry.value, me);
                let len = swarm.layout.len_of(signed.entry.index);
                let origin = swarm.id.origin.clone();
                if first {
                    self.count_bytes(&origin, len);
                }
            }
            self.present(key, node, chunk);
        }
        if let Some(node) = self.nodes.get_mut(&node) {
            node.failures = 0;
        }
        self.relay(key, node, &known);
    }

    /// Progress of so many bytes: the lease goes on, and the origin's pace is known better.
    pub(super) fn renew(&mut self, key: SwarmKey, node: NodeKey, counter: u64, bytes: u64) {
        let now = self.now;
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let origin = swarm.id.origin.clone();
        let Some(grant) = swarm.grants.get_mut(&counter).filter(|grant| grant.node == node) else { return };
        let took = now.since(grant.moved);
        let before = grant.ends;
        grant.moved = now;
        grant.ends = now + grant.lasts;
        let (ends, from_origin) = (grant.ends, grant.zone.is_none());
        self.timers.remove(&(before, Timer::LeaseEnds(key, counter)));
        self.timers.insert((ends, Timer::LeaseEnds(key, counter)));
        if from_origin && bytes >= TELLING {
            self.observe(&origin, took, bytes);
        }
    }

    /// A lease that came to nothing tells that the origin, or the way to it, is slower than was thought: the next
    /// ones get more time. Without this, leases on a slow line would all end before their first chunk, for ever.
    fn learn_from_expiry(&mut self, key: SwarmKey, counter: u64) {
        let Some(swarm) = self.swarms.get(&key) else { return };
        let Some(grant) = swarm.grants.get(&counter).filter(|grant| grant.zone.is_none()) else { return };
        let (spent, origin) = (self.now.since(grant.moved), swarm.id.origin.clone());
        let step = step_of(&swarm.layout);
        self.observe(&origin, spent * 2, step);
    }

    pub(super) fn lease_may_end(&mut self, key: SwarmKey, counter: u64) {
        let Some(grant) = self.swarms.get(&key).and_then(|swarm| swarm.grants.get(&counter)) else { return };
        let (ends, holder) = (grant.ends, grant.node);
        if ends > self.now {
            return;
        }
        self.learn_from_expiry(key, counter);
        self.revoke(key, counter, holder);
        self.end_grant(key, counter);
        self.expired += 1;
        self.rest(holder);
    }

    pub(super) fn returned(&mut self, node: NodeKey, id: &SwarmId, token: LeaseToken, why: LeaseFailure) {
        let Some(key) = self.present_round(id).filter(|_| token.epoch == self.epoch) else { return };
        let grant = self.swarms.get(&key).and_then(|swarm| swarm.grants.get(&token.counter));
        let Some(grant) = grant.filter(|grant| grant.node == node) else { return };
        // The holder's own clock may be the first to say that the time is over.
        if self.now.since(grant.moved) + grant.lasts / 10 >= grant.lasts {
            self.learn_from_expiry(key, token.counter);
        }
        let Some(grant) = self.end_grant(key, token.counter) else { return };
        match why {
            LeaseFailure::Refused if grant.zone.is_none() => self.refused(key, node),
            LeaseFailure::Throttled(time) if grant.zone.is_none() => self.throttled(&id.origin, time),
            LeaseFailure::Abandoned => {
                // Whoever gives back at once would be given the same again at once.
                let until = self.now + REST;
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.rests_until = node.rests_until.max(until);
                }
            }
            _ => self.rest(node),
        }
    }

    fn refused(&mut self, key: SwarmKey, node: NodeKey) {
        if let Some(swarm) = self.swarms.get_mut(&key)
            && let Some(member) = swarm.members.get_mut(&node)
        {
            member.refused = true;
            swarm.lessees.remove(node);
        }
    }

    /// A lease failed in this node's hands: others first, for a time that doubles.
    pub(super) fn rest(&mut self, node: NodeKey) {
        let jitter = 0.5 + self.rng.f64();
        let Some(node) = self.nodes.get_mut(&node) else { return };
        let wait = REST * 2u32.pow(node.failures.min(6));
        node.failures += 1;
        node.rests_until = self.now + wait.mul_f64(jitter).clamp(REST, REST_MAX);
    }

    pub(super) fn is_member(&self, key: SwarmKey, node: NodeKey) -> bool {
        self.swarms.get(&key).is_some_and(|swarm| swarm.members.contains_key(&node))
    }
}
