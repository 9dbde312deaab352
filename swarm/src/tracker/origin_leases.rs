//! Who reads from an origin, what, and when.
//!
//! Fair between the blobs of an origin: small ones first, then the one of which the least share was given out, so that
//! the layers of an image progress together. Fair between nodes: whoever holds fewest leases; several to
//! one node only where nobody else may have them, so that a lone node still reaches the origin's full speed.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};
use std::ops::Range;
use std::time::Duration;

use shoal_proto::message::LeaseKind;
use shoal_proto::{ChunkLayout, RegistryName, SignedEntry};

use super::swarm_state::{Grant, Place, Swarm};
use super::{NodeKey, SwarmKey, Timer, TrackerMachine};
use crate::Time;

/// A lease has at least so many chunks where the blob has them: fewer cost a request each.
const LEAST: u32 = 4;
/// What is left of a blob is not cut any more when it has no more chunks of 512 KiB than this: layers, most of which
/// are small, then cost about a request each. With all cut after four chunks, 40 layers of 50 KiB to 4 MiB cost 47 and took
/// 6 % less.
const LAST: u32 = 6;
/// Blobs of so few bytes come first.
pub(super) const SMALL: u64 = 4 * MIB;
/// Blobs of full lines that are looked at before one whose line is free; an image has up to 127 layers.
const FULL: usize = 256;
/// Nodes that are looked at for one lease.
const LOOKED_AT: usize = 16;
/// How long after a blob's first member one node gets no more leases than in a crowd: nodes that are told to pull at
/// the same moment ask within this, and two leases keep a lone node's origin busy meanwhile.
pub(super) const GATHERING: Duration = Duration::from_millis(500);
/// A MiB takes 1 ms from an origin at 10 Gbit/s, 8 ms at 1 Gbit/s, 84 ms at 100 Mbit/s. Between the last two short leases
/// cost about as much as they bring.
const FAST: Duration = Duration::from_micros(1500);
const SLOW: Duration = Duration::from_millis(30);
const MIB: u64 = 1 << 20;
/// What an origin is taken to deliver before anything was measured, bytes per second: a slow link.
const UNKNOWN_PACE: f64 = 3072.0 * 1024.0;

/// An upstream registry.
#[derive(Debug, Default)]
pub(super) struct Origin {
    grants: usize,
    /// The swarms that have them.
    pub(super) reading: BTreeSet<SwarmKey>,
    /// It said 429.
    paused_until: Time,
    /// Swarms with chunks to read: whether large, the share given out, the swarm.
    queue: BTreeSet<(bool, u32, SwarmKey)>,
    /// Seconds for a byte over its line, which all leases share, smoothed.
    pub(super) pace: Option<f64>,
    /// Bytes that lease holders reported.
    pub(super) bytes: u64,
}

/// What a lease brings from one sign of progress to the next is reckoned as this, in bytes: a chunk, but not less than a
/// MiB where the blob has it. One of several streams may get next to nothing for as long as a MiB takes, however small the
/// chunks are.
pub(super) fn step_of(layout: &ChunkLayout) -> u64 {
    layout.chunk_size().max(MIB).min(layout.size())
}

/// What came of an attempt to give a lease.
enum Attempt {
    Given,
    /// The line of whoever could have it is full.
    Full,
    /// Nobody can have it now.
    Nobody,
}

// Lengths are below 2^53.
#[allow(clippy::cast_precision_loss)]
pub(super) fn as_f64(len: u64) -> f64 {
    len as f64
}

impl TrackerMachine {
    /// A lease of this swarm is over, which has so many left.
    pub(super) fn origin_grant_ended(&mut self, origin: &RegistryName, key: SwarmKey, left: usize) {
        if let Some(origin) = self.origins.get_mut(origin) {
            origin.grants = origin.grants.saturating_sub(1);
            if left == 0 {
                origin.reading.remove(&key);
            }
            // Another blob of this origin may have waited for it.
            let waiting: Vec<SwarmKey> = origin.queue.first().map(|(.., key)| *key).into_iter().collect();
            self.stirred.extend(waiting);
        }
    }

    pub(super) fn count_bytes(&mut self, origin: &RegistryName, bytes: u64) {
        self.origins.entry(origin.clone()).or_default().bytes += bytes;
    }

    pub(super) fn observe(&mut self, origin: &RegistryName, took: Duration, bytes: u64) {
        let origin = self.origins.entry(origin.clone()).or_default();
        let sharing = as_f64(u64::try_from(origin.grants).unwrap_or(u64::MAX).max(1));
        let sample = took.as_secs_f64() / as_f64(bytes.max(1)) / sharing;
        origin.pace = Some(origin.pace.map_or(sample, |pace| pace + 0.2 * (sample - pace)));
    }

    pub(super) fn throttled(&mut self, name: &RegistryName, time: Duration) {
        let until = self.now + time.min(self.config.throttled_max);
        let origin = self.origins.entry(name.clone()).or_default();
        origin.paused_until = origin.paused_until.max(until);
        self.timers.insert((origin.paused_until, Timer::Origin(name.clone())));
    }

    /// What a MiB takes from a swarm's origin, in seconds.
    fn mib_time(&self, swarm: &Swarm) -> f64 {
        let pace = self.origins.get(&swarm.id.origin).and_then(|origin| origin.pace);
        pace.unwrap_or(1.0 / UNKNOWN_PACE) * as_f64(MIB)
    }

    fn is_fast(&self, swarm: &Swarm) -> bool {
        self.mib_time(swarm) <= FAST.as_secs_f64()
    }

    /// Adjacent chunks in the next lease of a swarm. Where chunks are smaller than a MiB as many as make up for it, but on
    /// slow lines: there what is read last is passed on sooner where each has less to read. 16 nodes at 50 Mbit/s took
    /// 1.12 times the bound so, not 1.16, and 300 at 10 Gbit/s 1.44, not 1.55.
    fn lease_chunks(&self, swarm: &Swarm) -> u32 {
        let config = &self.config;
        let fast = self.is_fast(swarm);
        let most = if fast { config.lease_chunks_when_fast } else { config.lease_chunks };
        let slow = self.mib_time(swarm) > SLOW.as_secs_f64();
        let for_a_mib = if slow { 1 } else { MIB.div_ceil(swarm.layout.chunk_size()) };
        let for_a_mib = u32::try_from(for_a_mib).unwrap_or(1);
        let absent = swarm.places.absent();
        if absent <= LAST && swarm.layout.chunk_size() < MIB {
            return LAST;
        }
        let per_blob = u32::try_from(self.leases_per_blob(swarm)).unwrap_or(u32::MAX).max(1);
        let least = LEAST * for_a_mib;
        absent.div_ceil(per_blob).clamp(least, least.max(most.saturating_mul(for_a_mib)))
    }

    pub(super) fn leases_per_blob(&self, swarm: &Swarm) -> usize {
        if self.is_fast(swarm) { self.config.leases_when_fast } else { self.config.leases_per_blob }
    }

    fn leases_now(&self, swarm: &Swarm) -> usize {
        let here = usize::try_from(swarm.places.present()).unwrap_or(usize::MAX);
        self.leases_per_blob(swarm).min(here.saturating_add(self.config.leases_at_first))
    }

    /// How long a lease may go without progress.
    pub(super) fn lease_time(&self, swarm: &Swarm) -> Duration {
        let origin = self.origins.get(&swarm.id.origin);
        let chunk = as_f64(step_of(&swarm.layout));
        // By then it may share the line with all that may be given.
        let sharing = origin.map_or(0, |origin| origin.grants).max(self.leases_per_blob(swarm));
        let sharing = as_f64(u64::try_from(sharing).unwrap_or(u64::MAX));
        let expected = chunk * sharing * origin.and_then(|origin| origin.pace).unwrap_or(1.0 / UNKNOWN_PACE);
        let longest = self.config.lease_time_max;
        let time = Duration::from_secs_f64((3.0 * expected).clamp(0.0, longest.as_secs_f64()));
        time.max(self.config.lease_time)
    }

    /// Puts a swarm where it belongs in its origin's queue; gives the origin's name.
    pub(super) fn queue(&mut self, key: SwarmKey) -> Option<RegistryName> {
        let swarm = self.swarms.get(&key)?;
        let whole = !swarm.distrusts_complete && self.whole(swarm).next().is_some();
        let needs = swarm.places.absent() > 0
            && !whole
            && !swarm.lessees.is_empty()
            && swarm.origin_grants < if swarm.one_stream { 1 } else { self.leases_now(swarm) };
        let given = u64::from(swarm.chunks() - swarm.places.absent()) * 1000;
        let share = u32::try_from(given / u64::from(swarm.chunks().max(1))).unwrap_or(1000);
        let place = needs.then_some((swarm.layout.size() > SMALL, share));
        let name = swarm.id.origin.clone();
        let before = swarm.queued;
        let origin = self.origins.entry(name.clone()).or_default();
        if let Some((large, share)) = before {
            origin.queue.remove(&(large, share, key));
        }
        if let Some((large, share)) = place {
            origin.queue.insert((large, share, key));
        }
        if let Some(swarm) = self.swarms.get_mut(&key) {
            swarm.queued = place;
        }
        Some(name)
    }

    pub(super) fn unqueue(&mut self, swarm: &Swarm, key: SwarmKey) {
        if let (Some((large, share)), Some(origin)) = (swarm.queued, self.origins.get_mut(&swarm.id.origin)) {
            origin.queue.remove(&(large, share, key));
        }
    }

    pub(super) fn give_origin_leases(&mut self, name: &RegistryName) {
        let (mut full, mut passed) = (None, 0);
        while self.open
            && let Some(origin) = self.origins.get(name)
            && origin.grants < self.config.leases_per_origin
            && origin.paused_until <= self.now
            && let Some(&place) = match full {
                Some(last) => origin.queue.range((Excluded(last), Unbounded)).next(),
                None => origin.queue.first(),
            }
        {
            let (.., key) = place;
            match self.give_origin_lease(key) {
                Attempt::Given => {
                    if let Some(origin) = self.origins.get_mut(name) {
                        origin.grants += 1;
                        origin.reading.insert(key);
                    }
                    self.queue(key);
                }
                Attempt::Full if passed < FULL => {
                    full = Some(place);
                    passed += 1;
                }
                // A lease that ends lets all be looked at again.
                Attempt::Full => return,
                Attempt::Nobody => {
                    // Something will stir it: a lease that ends, a node that joins or has rested.
                    if let Some(swarm) = self.swarms.get_mut(&key) {
                        swarm.queued = None;
                    }
                    if let Some(origin) = self.origins.get_mut(name) {
                        origin.queue.remove(&place);
                    }
                }
            }
        }
    }

    fn give_origin_lease(&mut self, key: SwarmKey) -> Attempt {
        let Some(swarm) = self.swarms.get(&key) else { return Attempt::Nobody };
        let any = |rng: &mut fastrand::Rng| rng.u32(..swarm.chunks().div_ceil(LEAST).max(1)) * LEAST;
        let from = if self.config.leases_in_order { 0 } else { any(&mut self.rng) };
        let chunks = swarm.places.absent_from(from, self.lease_chunks(swarm));
        let (chunks, lasts) = if swarm.one_stream {
            let last = (0..swarm.chunks()).rfind(|chunk| swarm.places.get(*chunk) == Place::Absent);
            (swarm.places.front()..last.map_or(chunks.end, |last| last + 1), self.stream_time(swarm))
        } else {
            (chunks, self.lease_time(swarm))
        };
        let Some(node) = self.lessee(key, &chunks) else { return Attempt::Nobody };
        if self.line_is_full(key, node) {
            return Attempt::Full;
        }
        self.grant(key, node, None, chunks, lasts, LeaseKind::Origin);
        Attempt::Given
    }

    /// How long one stream of the whole blob may go without progress: what is here already comes first.
    fn stream_time(&self, swarm: &Swarm) -> Duration {
        self.lease_time(swarm).saturating_mul(swarm.places.front() + 1).min(self.config.lease_time_max)
    }

    /// A holder that brings chunks outside its lease reads from an origin that ignores Range, and so gets all of the
    /// blob: it is left to it, and nobody else reads.
    pub(super) fn notice_stream(
        &mut self,
        key: SwarmKey,
        node: NodeKey,
        counter: u64,
        entries: &[&SignedEntry],
    ) {
        let Some(swarm) = self.swarms.get(&key).filter(|swarm| !swarm.one_stream) else { return };
        let of_node = |grant: &&Grant| grant.node == node && grant.zone.is_none();
        let Some(grant) = swarm.grants.get(&counter).filter(of_node) else { return };
        if entries.iter().all(|signed| grant.chunks.contains(&signed.entry.index.0)) {
            return;
        }
        let from_origin = swarm.grants.iter().filter(|(_, grant)| grant.zone.is_none());
        let others: Vec<(u64, NodeKey)> = from_origin
            .filter(|(other, _)| **other != counter)
            .map(|(other, held)| (*other, held.node))
            .collect();
        for (other, holder) in others {
            self.revoke(key, other, holder);
            self.end_grant(key, other);
        }
        let Some(lasts) = self.swarms.get(&key).map(|swarm| self.stream_time(swarm)) else { return };
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        swarm.one_stream = true;
        let Some(grant) = swarm.grants.get_mut(&counter) else { return };
        self.timers.remove(&(grant.ends, Timer::LeaseEnds(key, counter)));
        (grant.lasts, grant.ends) = (lasts, self.now + lasts);
        self.timers.insert((grant.ends, Timer::LeaseEnds(key, counter)));
        for chunk in swarm.places.front()..swarm.places.len() {
            if swarm.places.get(chunk) == Place::Absent {
                swarm.places.set(chunk, Place::Leased);
                grant.left.insert(chunk);
            }
        }
    }

    /// The node to give these chunks to.
    fn lessee(&mut self, key: SwarmKey, chunks: &Range<u32>) -> Option<NodeKey> {
        let swarm = self.swarms.get(&key)?;
        if swarm.id.round > 0 {
            return self.reader(key);
        }
        let lessees = swarm.lessees.len().max(1);
        // Of a crowd one node is always the first; it would get all leases before the others are there.
        let crowd_is_here = swarm.since + GATHERING;
        let gathering = self.now < crowd_is_here;
        let alone = if gathering { 0 } else { self.leases_per_blob(swarm).div_ceil(lessees) };
        let most = self.config.leases_per_node.max(alone);
        if let Some(node) = self.starving_for(swarm, &swarm.lessees, chunks) {
            return Some(node);
        }
        let mut rested = None;
        let mut best = None;
        for key in swarm.lessees.sample(LOOKED_AT, &mut self.rng) {
            let Some(node) = self.nodes.get(&key) else { continue };
            if node.rests_until > self.now {
                rested = Some(rested.map_or(node.rests_until, |at: Time| at.min(node.rests_until)));
                continue;
            }
            let busy = swarm.grants_of(key, None) >= most;
            let in_zone = swarm.grants.values().filter(|grant| {
                grant.zone.is_none()
                    && self.nodes.get(&grant.node).is_some_and(|other| other.zone == node.zone)
            });
            let rank = (busy, node.leases, in_zone.count());
            if best.is_none_or(|(known, _)| rank < known) {
                best = Some((rank, key));
            }
        }
        let best = best.filter(|((busy, ..), _)| !busy);
        if best.is_none()
            && let Some(at) = rested.into_iter().chain(gathering.then_some(crowd_is_here)).min()
        {
            self.timers.insert((at, Timer::Swarm(key)));
        }
        best.map(|(_, node)| node)
    }
}
