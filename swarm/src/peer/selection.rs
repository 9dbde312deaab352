//! Which chunk is asked for next, and of whom.
//!
//! In this order: chunks of zone leases, for a whole zone waits for them; the chunks in front of waiting readers; then
//! the rarest among the first missing ones, ties by chance. Among the nodes that have a chunk: the
//! least loaded, of the fastest class, by chance.

use shoal_proto::{ChunkIndex, NodeId};

use super::evidence::ClaimRef;
use super::swarm_state::{Neighbour, Swarm};
use super::{Key, PeerMachine, Timer};
use crate::Time;

/// Blobs of so few chunks come first: manifests and configurations, which hold up all else.
const SMALL: u32 = 4;

/// A chunk to ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice {
    pub(super) key: Key,
    pub(super) chunk: u32,
    pub(super) from: NodeId,
    /// Somebody else was asked already.
    pub(super) twice: bool,
}

/// What a search for a holder found out besides.
#[derive(Debug, Default)]
struct Search {
    /// When a holder that is busy now may be asked.
    again_at: Option<Time>,
    /// Holders that are asked for as much as they may be.
    full: Vec<NodeId>,
}

impl Search {
    fn note(&mut self, at: Time) {
        self.again_at = Some(self.again_at.map_or(at, |known| known.min(at)));
    }
}

impl PeerMachine {
    /// Asks for chunks as long as there are slots.
    pub(super) fn fill_slots(&mut self) {
        while self.requests.len() < self.config.downloads {
            let Some(key) = self.next_swarm() else { return };
            let mut search = Search::default();
            match self.pick(key, &mut search) {
                Some(choice) => self.ask(choice),
                None => {
                    self.ready.remove(&key);
                    self.retry_at(key, search.again_at);
                    for node in search.full {
                        self.links.entry(node).or_default().waiting.insert(key);
                    }
                }
            }
        }
    }

    /// Blobs that a reader waits for, then small ones, then each in its turn.
    fn next_swarm(&self) -> Option<Key> {
        let rank = |key: &Key| {
            let swarm = self.swarms.get(key)?;
            Some((swarm.readers.is_empty(), swarm.chunks() > SMALL, swarm.served_at, *key))
        };
        self.ready.iter().filter_map(rank).min().map(|(.., key)| key)
    }

    fn retry_at(&mut self, key: Key, at: Option<Time>) {
        let (Some(at), Some(swarm)) = (at, self.swarms.get_mut(&key)) else { return };
        if swarm.retry_at.is_none_or(|known| known > at || known <= self.now) {
            swarm.retry_at = Some(at);
            self.wake_at(at, Timer::Retry(key));
        }
    }

    pub(super) fn retry(&mut self, key: Key) {
        if let Some(swarm) = self.swarms.get_mut(&key) {
            swarm.retry_at = None;
            self.ready.insert(key);
        }
    }

    fn pick(&mut self, key: Key, search: &mut Search) -> Option<Choice> {
        let swarm = self.swarms.get(&key)?;
        if !swarm.is_fetching() {
            return None;
        }
        let rng = &mut self.rng.clone();
        let wanted = self
            .pick_leased(swarm, search)
            .or_else(|| self.pick_for_reader(swarm, rng, search))
            .or_else(|| self.pick_rarest(swarm, rng, search));
        let twice = wanted.is_none();
        let found = wanted.or_else(|| self.pick_last(swarm, search));
        self.rng = rng.clone();
        found.map(|(chunk, from)| Choice { key, chunk, from, twice })
    }

    fn pick_leased(&self, swarm: &Swarm, search: &mut Search) -> Option<(u32, NodeId)> {
        for held in swarm.leases.values() {
            let Some(source) = held.source() else { continue };
            for chunk in held.lease.chunks.clone() {
                if self.may_ask(swarm, chunk) && self.can_ask(swarm, chunk, &source, search) {
                    return Some((chunk, source));
                }
            }
        }
        None
    }

    /// Missing, not under way, not being read from the origin by this node.
    fn may_ask(&self, swarm: &Swarm, chunk: u32) -> bool {
        !swarm.held.contains(ChunkIndex(chunk))
            && !swarm.asked.contains_key(&chunk)
            && !swarm.is_leased(chunk)
    }

    fn pick_for_reader(
        &self,
        swarm: &Swarm,
        rng: &mut fastrand::Rng,
        search: &mut Search,
    ) -> Option<(u32, NodeId)> {
        for reader in swarm.readers.values() {
            let end = reader.chunks.end.min(swarm.chunks());
            let missing = swarm.held.missing_from(ChunkIndex(reader.cursor)).map(|index| index.0);
            let ahead = missing.take_while(|chunk| *chunk < end).take(self.config.reader_ahead);
            for chunk in ahead {
                if self.may_ask(swarm, chunk)
                    && let Some(from) = self.holder(swarm, chunk, rng, search)
                {
                    return Some((chunk, from));
                }
            }
        }
        None
    }

    fn pick_rarest(
        &self,
        swarm: &Swarm,
        rng: &mut fastrand::Rng,
        search: &mut Search,
    ) -> Option<(u32, NodeId)> {
        let missing = swarm.missing().filter(|chunk| !swarm.asked.contains_key(chunk));
        let mut window: Vec<(u16, u32, u32)> = missing
            .take(self.config.window)
            .filter(|chunk| swarm.copies_of(*chunk) > 0 && !swarm.is_leased(*chunk))
            .map(|chunk| (swarm.copies_of(chunk), rng.u32(..), chunk))
            .collect();
        window.sort_unstable();
        let mut rarest = window.into_iter().map(|(.., chunk)| chunk);
        rarest.find_map(|chunk| Some((chunk, self.holder(swarm, chunk, rng, search)?)))
    }

    /// The last chunks, all of them under way: what has been so for the median time is asked of a second peer, as far
    /// as duplicates are allowed.
    fn pick_last(&self, swarm: &Swarm, search: &mut Search) -> Option<(u32, NodeId)> {
        let missing = (swarm.chunks() - swarm.held.count()) as usize;
        if missing > self.config.downloads || missing > swarm.asked.len() {
            return None;
        }
        for (chunk, requests) in &swarm.asked {
            let [request] = requests.as_slice() else { continue };
            let Some(request) = self.requests.get(request) else { continue };
            let len = swarm.layout.len_of(ChunkIndex(*chunk));
            if self.spare < super::links::as_f64(len) {
                continue;
            }
            let at = request.since + self.pace.expected(len);
            if at > self.now {
                search.note(at);
            } else if let Some(from) = self.other_holder(swarm, *chunk, request.from) {
                return Some((*chunk, from));
            }
        }
        None
    }

    /// Somebody else who has a chunk that was asked for already.
    pub(super) fn other_holder(&self, swarm: &Swarm, chunk: u32, asked: NodeId) -> Option<NodeId> {
        let mut rng = self.rng.clone();
        let holder = self.best_holder(swarm, chunk, &mut rng, &mut Search::default(), Some(asked));
        holder.filter(|node| *node != asked)
    }

    fn holder(
        &self,
        swarm: &Swarm,
        chunk: u32,
        rng: &mut fastrand::Rng,
        search: &mut Search,
    ) -> Option<NodeId> {
        self.best_holder(swarm, chunk, rng, search, None)
    }

    fn best_holder(
        &self,
        swarm: &Swarm,
        chunk: u32,
        rng: &mut fastrand::Rng,
        search: &mut Search,
        but: Option<NodeId>,
    ) -> Option<NodeId> {
        let median = self.pace.median();
        let attested = swarm.evidence.value(chunk, ClaimRef::Map(0));
        let mut best = None;
        for (node, neighbour) in &swarm.neighbours {
            if Some(*node) == but
                || !neighbour.has.contains(ChunkIndex(chunk))
                || !self.can_ask_neighbour(swarm, chunk, node, neighbour, search)
            {
                continue;
            }
            let Some(link) = self.links.get(node) else { continue };
            // Bytes under one map only prove its signer a liar, should they be wrong.
            let value = swarm.evidence.value(chunk, neighbour.claim(chunk));
            let odd = attested.is_some() && value != attested;
            let rank = (odd, link.slow > 0, link.pace_class(median), link.requests, rng.u32(..));
            if best.is_none_or(|(known, _)| rank < known) {
                best = Some((rank, *node));
            }
        }
        best.map(|(_, node)| node)
    }

    fn can_ask(&self, swarm: &Swarm, chunk: u32, node: &NodeId, search: &mut Search) -> bool {
        let neighbour = swarm.neighbours.get(node);
        neighbour.is_some_and(|neighbour| {
            neighbour.has.contains(ChunkIndex(chunk))
                && self.can_ask_neighbour(swarm, chunk, node, neighbour, search)
        })
    }

    fn can_ask_neighbour(
        &self,
        swarm: &Swarm,
        chunk: u32,
        node: &NodeId,
        neighbour: &Neighbour,
        search: &mut Search,
    ) -> bool {
        let Some(link) = self.links.get(node).filter(|link| link.is_up()) else { return false };
        let Some(value) = swarm.evidence.value(chunk, neighbour.claim(chunk)) else { return false };
        let known = swarm.own_map.and_then(|map| swarm.evidence.value(chunk, ClaimRef::Map(map)));
        if known.is_some_and(|known| known != value)
            || !swarm.evidence.counts(chunk, neighbour.claim(chunk))
            || neighbour.failed.contains(&chunk)
            || !(self.is_usable(node) || swarm.zone_source(chunk) == Some(*node))
        {
            return false;
        }
        if link.requests >= self.config.per_neighbour {
            if !search.full.contains(node) {
                search.full.push(*node);
            }
            return false;
        }
        if link.busy_until > self.now {
            search.note(link.busy_until);
            return false;
        }
        true
    }

    /// Whether chunks may be asked of this node without a zone lease.
    pub(super) fn is_usable(&self, node: &NodeId) -> bool {
        self.is_near(node) || self.zones_open()
    }

    /// Whether a node stands in this node's zone. One that came by itself is not known yet; with a single zone it can
    /// only be near.
    pub(super) fn is_near(&self, node: &NodeId) -> bool {
        let place = self.links.get(node).and_then(|link| link.info.as_ref()).map(|info| &info.place);
        place.map_or(self.me.place.zone.is_empty(), |place| place.zone == self.me.place.zone)
    }
}
