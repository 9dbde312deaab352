//! Requests under way.

use std::time::Duration;

use shoal_proto::{ChunkIndex, ChunkValue, NodeId};

use super::evidence::ClaimRef;
use super::links::{Link, LinkKey, as_f64};
use super::selection::Choice;
use super::{FetchOutcome, Key, PeerAction, PeerMachine, REMEMBERED_NODES};
use crate::Time;

/// A request that takes longer than this many medians is asked of a second peer.
const OVERDUE: u32 = 3;
/// A request that takes longer than this many times what it should is given up: the slots share a line, and what was
/// measured may have been the first of them.
const GIVEN_UP: f64 = 4.0;
/// What a request must bring, whatever was measured before, bytes per second: six at once over a line of 5 Mbit/s. One
/// that stalls is cancelled long before, once a second peer has sent the chunk.
const SLOWEST: f64 = 80.0 * 1024.0;
/// Bytes of duplicates that may be saved up: enough for four of the largest chunks.
const SPARE_MAX: f64 = 64.0 * 1024.0 * 1024.0;
/// A request that is overdue may be doubled on credit, so that a small blob does not wait for a dead peer;
/// this many chunks ahead of the budget at most.
const CREDIT: f64 = 4.0;

/// A chunk that so few neighbours have, whoever sent it counted, is announced at once: else it would wait `have_delay`
/// on each hop of its way through a crowd. 1,000 nodes took 1.77 times the bound for 128 MiB at 10 Gbit/s instead of 2.02,
/// with a fifth more messages; on slow lines nothing changed.
const RARE: u16 = 2;

/// A chunk asked of a peer.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) key: Key,
    pub(super) chunk: u32,
    pub(super) from: NodeId,
    /// The place of its link, which is not removed while anything is asked of it.
    link: LinkKey,
    pub(super) since: Time,
    pub(super) len: u64,
    /// What the bytes are compared with, and the claim that says so. What the sender claims later is another matter.
    want: ChunkValue,
    claim: ClaimRef,
    /// When it will have taken too long.
    look_at: Time,
    /// The chunk had been asked of another peer already.
    twice: bool,
}

impl PeerMachine {
    pub(super) fn ask(&mut self, choice: Choice) {
        let Choice { key, chunk, from, twice } = choice;
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let Some(neighbour) = swarm.neighbours.get(&from) else { return };
        let (claim, link) = (neighbour.claim(chunk), neighbour.link);
        let Some(want) = swarm.evidence.value(chunk, claim) else { return };
        let request = self.next_request;
        self.next_request += 1;
        self.turns += 1;
        swarm.served_at = self.turns;
        swarm.asked.entry(chunk).or_default().push(request);
        let len = swarm.layout.len_of(ChunkIndex(chunk));
        let swarm = swarm.id.clone();
        if let Some(link) = self.links.at_mut(link) {
            link.requests += 1;
        }
        let look_at = self.now + self.overdue_after(len);
        let since = self.now;
        let asked = Request { key, chunk, from, link, since, len, want, claim, look_at, twice };
        self.requests.insert(request, asked);
        self.look_at = Some(self.look_at.map_or(look_at, |known| known.min(look_at)));
        if twice {
            self.spare -= as_f64(len);
        }
        self.act(PeerAction::Fetch { request, from, swarm, index: ChunkIndex(chunk), want });
    }

    fn overdue_after(&self, len: u64) -> Duration {
        let (least, most) = self.config.hedge_after;
        (self.pace.expected(len) * OVERDUE).clamp(least, most)
    }

    /// When a request is waited for no longer: large chunks over slow lines take minutes.
    fn given_up_after(&self, link: LinkKey, len: u64) -> Duration {
        let own = self.links.at(link).map_or(0.0, Link::pace);
        let pace = self.pace.median().max(own);
        let longest = (GIVEN_UP * pace).max(1.0 / SLOWEST);
        Duration::from_secs_f64((longest * as_f64(len)).clamp(0.0, 3600.0)).max(self.config.hedge_after.1)
    }

    /// Takes a request out of the books.
    fn end(&mut self, number: u64) -> Option<Request> {
        let request = self.requests.remove(&number)?;
        if let Some(link) = self.links.at_mut(request.link) {
            link.requests = link.requests.saturating_sub(1);
            // Some may have been left meanwhile.
            let waiting = link.take_waiting().filter(|key| self.swarms.contains_key(key));
            self.ready.extend(waiting);
        }
        if let Some(swarm) = self.swarms.get_mut(&request.key)
            && let Some(asked) = swarm.asked.get_mut(&request.chunk)
        {
            asked.retain(|other| *other != number);
            if asked.is_empty() {
                swarm.asked.remove(&request.chunk);
            }
        }
        // The slot is free for any of them; most have nothing to ask, which is found out quickly.
        self.ready.insert(request.key);
        Some(request)
    }

    pub(super) fn fetched(&mut self, number: u64, outcome: FetchOutcome) {
        let Some(request) = self.end(number) else { return };
        if !matches!(outcome, FetchOutcome::Stored | FetchOutcome::Mismatch) {
            self.not_sent(&request);
        }
        match outcome {
            FetchOutcome::Stored => self.stored(&request),
            FetchOutcome::Mismatch => self.mismatch(&request),
            FetchOutcome::Busy => self.busy(&request),
            FetchOutcome::NotHeld => {
                if let Some(swarm) = self.swarms.get_mut(&request.key) {
                    swarm.note_lacks(&request.from, request.chunk);
                }
                self.zone_source_failed(&request);
            }
            FetchOutcome::Failed => {
                // The link is up and the stream broke: somebody else first.
                let until = self.now + self.config.hedge_after.0;
                if let Some(link) = self.links.at_mut(request.link) {
                    link.slow += 1;
                    link.busy_until = until;
                }
                self.zone_source_failed(&request);
            }
        }
    }

    /// A second request brought nothing. In a crowd most of them are told BUSY: were they counted, a node whose slots all
    /// wait for neighbours that died would soon ask nobody else.
    fn not_sent(&mut self, request: &Request) {
        if request.twice {
            self.spare += as_f64(request.len);
        }
    }

    fn stored(&mut self, request: &Request) {
        let took = self.now.since(request.since);
        self.got += 1;
        // Itself, and those that are still under way.
        self.pace.add(took, request.len, 1 + self.requests.len());
        self.spare = (self.spare + self.config.duplicates * as_f64(request.len)).min(SPARE_MAX);
        if let Some(link) = self.links.at_mut(request.link) {
            link.delivered(took, request.len);
        }
        self.cancel_losers(request);
        let Some(swarm) = self.swarms.get_mut(&request.key) else { return };
        let claim = swarm.evidence.claiming(request.chunk, request.claim, request.want);
        let Some(claim) = claim else { return };
        if swarm.hold(request.chunk, claim) {
            swarm.fresh.push(request.chunk);
            swarm.zone_progress |= swarm.zone_source(request.chunk).is_some();
            if swarm.copies_of(request.chunk) <= RARE {
                self.urgent.insert(request.key);
            }
            self.after_held(request.key, request.chunk);
        }
    }

    /// The chunk is here; nobody else need send it.
    fn cancel_losers(&mut self, winner: &Request) {
        let asked = self.swarms.get(&winner.key).and_then(|swarm| swarm.asked.get(&winner.chunk));
        for loser in asked.cloned().unwrap_or_default() {
            let lost = self.end(loser);
            // The second was asked because the first stood still: it had sent little.
            if winner.twice && lost.is_some_and(|lost| !lost.twice) {
                self.spare += as_f64(winner.len);
            }
            self.act(PeerAction::Cancel { request: loser });
        }
    }

    /// What follows from a chunk newly held, wherever it came from.
    pub(super) fn after_held(&mut self, key: Key, chunk: u32) {
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let (held, front) = (&swarm.held, swarm.front);
        for reader in swarm.readers.values_mut() {
            if reader.cursor == chunk {
                let next = held.missing_from(ChunkIndex(chunk.max(front.min(held.len()))));
                reader.cursor = next.map(|index| index.0).next().unwrap_or(held.len());
            }
        }
        self.ready.insert(key);
        self.finish_zone_leases(key, chunk);
        self.flush_soon(key);
        self.check_whole(key);
    }

    fn mismatch(&mut self, request: &Request) {
        let count = self.rejected.len();
        if count < REMEMBERED_NODES || self.rejected.contains_key(&request.from) {
            *self.rejected.entry(request.from).or_default() += 1;
        }
        if let Some(swarm) = self.swarms.get_mut(&request.key)
            && let Some(neighbour) = swarm.neighbours.get_mut(&request.from)
        {
            neighbour.failed.insert(request.chunk);
            swarm.note_lacks(&request.from, request.chunk);
        }
        self.zone_source_failed(request);
        let Some(link) = self.links.at_mut(request.link) else { return };
        link.strikes += 1;
        if link.strikes >= self.config.strikes {
            self.shun(request.from);
        }
    }

    fn busy(&mut self, request: &Request) {
        let chunk_time = self.pace.expected_of_others(request.len);
        let jitter = self.rng.f64();
        if let Some(link) = self.links.at_mut(request.link) {
            link.busy(self.now, chunk_time, jitter);
        }
    }

    pub(super) fn look_at_overdue(&mut self) {
        for number in self.requests_where(|request| request.look_at <= self.now) {
            self.overdue(number);
        }
        self.look_at = self.requests.values().map(|request| request.look_at).min();
    }

    /// A request takes long: somebody else is asked as well; past the longest time it is given up.
    fn overdue(&mut self, number: u64) {
        let Some(request) = self.requests.get(&number).cloned() else { return };
        if let Some(link) = self.links.at_mut(request.link) {
            link.slow += 1;
        }
        let age = self.now.since(request.since);
        let longest = self.given_up_after(request.link, request.len);
        if age >= longest {
            // The line may have become slower: the next one gets more time.
            if let Some(link) = self.links.at_mut(request.link) {
                link.observe(age * 2, request.len);
            }
            self.act(PeerAction::Cancel { request: number });
            self.fetched(number, FetchOutcome::Failed);
            // If nobody else has it, that is for the tracker to know.
            let swarm = self.swarms.get_mut(&request.key);
            if let Some(neighbour) = swarm.and_then(|swarm| swarm.neighbours.get_mut(&request.from)) {
                neighbour.failed.insert(request.chunk);
            }
            return;
        }
        let Some(swarm) = self.swarms.get(&request.key) else { return };
        let asked = swarm.asked.get(&request.chunk).map_or(&[][..], Vec::as_slice);
        let first = asked.iter().copied().find(|other| *other != number);
        let allowed = self.spare + (CREDIT - 1.0) * as_f64(request.len) >= 0.0;
        let nodes: Vec<NodeId> =
            asked.iter().filter_map(|asked| self.requests.get(asked)).map(|asked| asked.from).collect();
        let other = self.other_holder(swarm, request.chunk, &nodes);
        if let (true, Some(from)) = (allowed && (first.is_none() || request.twice), other) {
            // The second takes long as well: the first is given up for a third.
            self.cancel(first.into_iter().collect());
            self.ask(Choice { key: request.key, chunk: request.chunk, from, twice: true });
        }
        // Look again: later there may be somebody else.
        let least = self.config.hedge_after.0;
        if let Some(request) = self.requests.get_mut(&number) {
            request.look_at = (self.now + least.max(age / 2)).min(request.since + longest);
        }
    }

    fn requests_where(&self, wanted: impl Fn(&Request) -> bool) -> Vec<u64> {
        self.requests.iter().filter(|(_, request)| wanted(request)).map(|(number, _)| *number).collect()
    }

    fn cancel(&mut self, numbers: Vec<u64>) {
        for number in numbers {
            self.end(number);
            self.act(PeerAction::Cancel { request: number });
        }
    }

    /// A chunk is had, or read, otherwise.
    pub(super) fn cancel_chunk(&mut self, key: Key, chunk: u32) {
        let asked = self.swarms.get(&key).and_then(|swarm| swarm.asked.get(&chunk)).cloned();
        self.cancel(asked.unwrap_or_default());
    }

    /// The link is gone, and with it what was asked over it.
    pub(super) fn fail_requests_to(&mut self, node: NodeId) {
        for number in self.requests_where(|request| request.from == node) {
            if let Some(request) = self.end(number) {
                self.not_sent(&request);
            }
            self.act(PeerAction::Cancel { request: number });
        }
    }

    pub(super) fn cancel_from(&mut self, key: Key, node: NodeId) {
        self.cancel(self.requests_where(|request| request.key == key && request.from == node));
    }

    /// Ends all that is under way for a swarm.
    pub(super) fn cancel_all(&mut self, key: Key) {
        self.cancel(self.requests_where(|request| request.key == key));
        self.drop_leases(key);
    }
}
