//! Leases in this node's hands: reading from the origin, or from another zone.

use std::time::Duration;

use shoal_proto::message::{Lease, LeaseFailure, LeaseKind, NodeMessage};
use shoal_proto::{ChunkIndex, LeaseToken, NodeId, SignedEntry, SwarmId};

use super::links::as_f64;
use super::swarm_state::{HeldLease, Swarm};
use super::transfers::Request;
use super::{Key, PeerAction, PeerMachine, Timer};

/// How long a zone lease's source may take to be linked and to say what it has.
const SOURCE_WAIT: Duration = Duration::from_secs(2);

impl PeerMachine {
    pub(super) fn lease(&mut self, lease: Lease) {
        let key = self.by_id.get(&lease.swarm).copied();
        let usable = key.and_then(|key| self.swarms.get(&key)).and_then(|swarm| trimmed(swarm, &lease));
        let (Some(key), Some(chunks)) = (key, usable) else {
            // The tracker may not know that this node has them already.
            if let Some(key) = key {
                self.session.announce(key);
                self.send_joins();
            }
            self.give_back(&lease.swarm, lease.token, LeaseFailure::Abandoned);
            return;
        };
        if matches!(&lease.kind, LeaseKind::Zone(source) if self.shunned.contains(&source.node)) {
            self.give_back(&lease.swarm, lease.token, LeaseFailure::Unreachable);
            return;
        }
        let lease = Lease { chunks, ..lease };
        let ends = self.now + lease.lasts;
        self.wake_at(ends, Timer::LeaseEnds(key, lease.token));
        if let Some(swarm) = self.swarms.get_mut(&key) {
            swarm.leases.insert(lease.token, HeldLease { lease: lease.clone(), ends, moved: self.now });
        }
        match lease.kind.clone() {
            LeaseKind::Origin => {
                lease.chunks.clone().for_each(|chunk| self.cancel_chunk(key, chunk));
                self.act(PeerAction::FetchOrigin(lease));
            }
            LeaseKind::Zone(source) => {
                self.add_neighbour(key, source, true);
                self.ready.insert(key);
            }
        }
    }

    fn give_back(&mut self, swarm: &SwarmId, token: LeaseToken, why: LeaseFailure) {
        if self.session.is_up() {
            self.act(PeerAction::ToTracker(NodeMessage::Return { swarm: swarm.clone(), token, why }));
        }
    }

    /// Takes a lease out of the books; cancels what runs under it.
    fn drop_lease(&mut self, key: Key, token: LeaseToken) -> Option<HeldLease> {
        let swarm = self.swarms.get_mut(&key)?;
        let held = swarm.leases.remove(&token)?;
        let id = swarm.id.clone();
        if held.is_origin() {
            self.act(PeerAction::CancelOrigin { swarm: id, token });
        }
        self.ready.insert(key);
        Some(held)
    }

    pub(super) fn drop_leases(&mut self, key: Key) {
        let tokens = self.swarms.get(&key).map(|swarm| swarm.leases.keys().copied().collect());
        let tokens: Vec<LeaseToken> = tokens.unwrap_or_default();
        for token in tokens {
            self.drop_lease(key, token);
        }
    }

    pub(super) fn revoke(&mut self, swarm: &SwarmId, token: LeaseToken) {
        if let Some(&key) = self.by_id.get(swarm) {
            self.drop_lease(key, token);
        }
    }

    /// Time is up, unless progress was reported meanwhile. A node never extends a lease by itself.
    pub(super) fn lease_may_end(&mut self, key: Key, token: LeaseToken) {
        let Some(held) = self.swarms.get(&key).and_then(|swarm| swarm.leases.get(&token)) else { return };
        let (ends, id) = (held.ends, held.lease.swarm.clone());
        if ends > self.now {
            self.wake_at(ends, Timer::LeaseEnds(key, token));
            return;
        }
        self.drop_lease(key, token);
        self.give_back(&id, token, LeaseFailure::Unreachable);
    }

    /// Another epoch's leases mean nothing to the tracker; what they read further would be read twice.
    pub(super) fn drop_leases_but(&mut self, epoch: u64) {
        let old: Vec<(Key, LeaseToken)> = self
            .swarms
            .iter()
            .flat_map(|(key, swarm)| swarm.leases.keys().map(|token| (*key, *token)))
            .filter(|(_, token)| token.epoch != epoch)
            .collect();
        for (key, token) in old {
            self.drop_lease(key, token);
        }
    }

    pub(super) fn origin_chunk(&mut self, signed: &SignedEntry) {
        let entry = &signed.entry;
        let Some(&key) = self.by_id.get(&entry.swarm) else { return };
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let Some(claim) = swarm.evidence.add(signed) else { return };
        let chunk = entry.index.0;
        let new = swarm.hold(chunk, claim);
        swarm.progress.entry(entry.token).or_default().push(signed.clone());
        if let Some(held) = swarm.leases.get_mut(&entry.token) {
            let took = self.now.since(std::mem::replace(&mut held.moved, self.now));
            self.line = took.as_secs_f64() / as_f64(swarm.layout.len_of(entry.index).max(1));
        }
        if new {
            swarm.fresh.push(chunk);
            // Nobody else has it yet.
            self.urgent.insert(key);
            self.cancel_chunk(key, chunk);
            self.after_held(key, chunk);
        }
    }

    pub(super) fn origin_ended(
        &mut self,
        swarm: &SwarmId,
        token: LeaseToken,
        result: Result<(), LeaseFailure>,
    ) {
        let Some(&key) = self.by_id.get(swarm) else { return };
        // What was read is reported before the rest is given back.
        self.flush(key);
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let Some(held) = swarm.leases.remove(&token) else { return };
        let id = swarm.id.clone();
        let whole = swarm.held.contains_all(held.lease.chunks);
        if let Err(why) = result {
            self.give_back(&id, token, why);
        } else if !whole {
            self.give_back(&id, token, LeaseFailure::Abandoned);
        }
        self.ready.insert(key);
    }

    /// The source of a zone lease cannot deliver.
    pub(super) fn zone_source_failed(&mut self, request: &Request) {
        let is_source = |swarm: &Swarm| swarm.zone_source(request.chunk) == Some(request.from);
        if self.swarms.get(&request.key).is_some_and(is_source) {
            self.return_zone_leases_of(request.key, request.from);
        }
    }

    pub(super) fn return_zone_leases_of(&mut self, key: Key, source: NodeId) {
        let Some(swarm) = self.swarms.get(&key) else { return };
        let id = swarm.id.clone();
        let of_source = swarm.leases.values().filter(|held| held.source() == Some(source));
        let tokens: Vec<LeaseToken> = of_source.map(|held| held.lease.token).collect();
        if !tokens.is_empty() {
            self.flush(key);
        }
        for token in tokens {
            self.drop_lease(key, token);
            self.give_back(&id, token, LeaseFailure::Unreachable);
        }
    }

    /// Zone leases end with their last chunk, wherever that came from.
    pub(super) fn finish_zone_leases(&mut self, key: Key, chunk: u32) {
        let now = self.now;
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let held = &swarm.held;
        let whole = |lease: &HeldLease| !lease.is_origin() && held.contains_all(lease.lease.chunks.clone());
        let done: Vec<LeaseToken> =
            swarm.leases.iter().filter(|(_, lease)| whole(lease)).map(|(token, _)| *token).collect();
        let renewed = |lease: &&mut HeldLease| !lease.is_origin() && lease.lease.chunks.contains(&chunk);
        for lease in swarm.leases.values_mut().filter(renewed) {
            lease.ends = now + lease.lease.lasts.max(SOURCE_WAIT);
        }
        if !done.is_empty() {
            swarm.zone_progress = true;
            self.urgent.insert(key);
        }
        for token in done {
            if let Some(swarm) = self.swarms.get_mut(&key) {
                swarm.leases.remove(&token);
            }
        }
    }

    /// Tells the tracker what came in under leases, which renews them.
    pub(super) fn report_progress(&mut self, key: Key) {
        let up = self.session.is_up();
        let now = self.now;
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let progress = std::mem::take(&mut swarm.progress);
        let zone = std::mem::take(&mut swarm.zone_progress);
        if !up {
            return;
        }
        let id = swarm.id.clone();
        for token in progress.keys() {
            if let Some(held) = swarm.leases.get_mut(token) {
                held.ends = now + held.lease.lasts;
            }
        }
        for (token, entries) in progress {
            self.act(PeerAction::ToTracker(NodeMessage::Progress { swarm: id.clone(), token, entries }));
        }
        if zone {
            // The entries are other nodes', and an attested blob has none: what is held says it all.
            self.session.announce(key);
            self.send_joins();
        }
    }
}

/// The part of a lease that this node still has use for.
fn trimmed(swarm: &Swarm, lease: &Lease) -> Option<std::ops::Range<u32>> {
    if !swarm.is_fetching() || (lease.kind == LeaseKind::Origin && !swarm.may_lease) {
        return None;
    }
    let end = lease.chunks.end.min(swarm.chunks());
    let missing = |chunk: &u32| !swarm.held.contains(ChunkIndex(*chunk));
    let first = (lease.chunks.start..end).find(missing)?;
    let last = (first..end).rev().find(missing)?;
    Some(first..last + 1)
}
