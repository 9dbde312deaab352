//! Which chunk is asked for next, and of whom.
//!
//! In this order: chunks of zone leases, for a whole zone waits for them; the chunks in front of waiting readers; then
//! the rarest among the first missing ones, ties by chance. Among the nodes that have a chunk: the
//! least loaded, of the fastest class, by chance.

use shoal_proto::{ChunkIndex, ChunkSet, ChunkValue, NodeId};

use super::evidence::ClaimRef;
use super::links::Link;
use super::swarm_state::{Neighbour, Reader, Swarm};
use super::{Key, PeerMachine, Timer};
use crate::Time;

/// Blobs of so few bytes come first, whoever waits for what: manifests and configurations hold up all else, and small
/// layers are soon here. In them no chunk is preferred because a reader waits for it: all nodes read the same, and would
/// all ask the first that has it. With readers first an image of 40 layers of 50 KiB to 4 MiB took 5 % longer.
const SMALL: u64 = 4 << 20;

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

/// A neighbour that may be asked now for whatever it has.
#[derive(Debug)]
struct Open<'a> {
    node: NodeId,
    neighbour: &'a Neighbour,
    /// The least is asked first: whether it was slow lately, its class of speed, what it is asked for already.
    rank: (bool, i32, u32),
}

impl Search {
    fn note(&mut self, at: Time) {
        self.again_at = Some(self.again_at.map_or(at, |known| known.min(at)));
    }
}

impl PeerMachine {
    /// Asks for chunks as long as there are slots.
    pub(super) fn fill_slots(&mut self) {
        while self.requests.len() < self.download_slots() {
            let Some(key) = self.next_swarm() else { return };
            let mut search = Search::default();
            match self.pick(key, &mut search) {
                Some(choice) => self.ask(choice),
                None => {
                    self.ready.remove(key);
                    self.retry_at(key, search.again_at);
                    for node in search.full {
                        self.links.get_or_add(node).add_waiting(key);
                    }
                }
            }
        }
    }

    /// Small blobs, then those that a reader waits for, each in its turn.
    fn next_swarm(&self) -> Option<Key> {
        let rank = |key: Key| {
            let swarm = self.swarms.get(&key)?;
            let small = is_small(swarm);
            Some((!small, !small && swarm.readers.is_empty(), swarm.served_at, key))
        };
        self.ready.iter().filter_map(rank).min().map(|(.., key)| key)
    }

    fn retry_at(&mut self, key: Key, at: Option<Time>) {
        let (Some(at), Some(swarm)) = (at, self.swarms.get_mut(&key)) else { return };
        if swarm.retry_at.is_none_or(|known| known > at) {
            if let Some(known) = swarm.retry_at.replace(at) {
                self.timers.remove(known, Timer::Retry(key));
            }
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
        let open = self.open_neighbours(swarm);
        let wanted = self
            .pick_leased(swarm, search)
            .or_else(|| self.pick_for_reader(swarm, &open, rng))
            .or_else(|| self.pick_rarest(swarm, &open, rng));
        let twice = wanted.is_none();
        if twice {
            self.note_shut(swarm, search);
        }
        let found = wanted.or_else(|| self.pick_last(swarm, search));
        self.rng = rng.clone();
        found.map(|(chunk, from)| Choice { key, chunk, from, twice })
    }

    /// The neighbours that may be asked now: looked for once, and not again for every chunk.
    fn open_neighbours<'a>(&self, swarm: &'a Swarm) -> Vec<Open<'a>> {
        let median = self.pace.median();
        let useful = swarm.neighbours.iter().filter(|(_, neighbour)| neighbour.offers > 0);
        // Once as large as it may become: this is done for every chunk that is asked for.
        let mut open = Vec::with_capacity(swarm.neighbours.len());
        open.extend(useful.filter_map(|(node, neighbour)| {
            let link = self.links.at(neighbour.link).filter(|link| link.is_up())?;
            let free = self.is_below_limit(swarm, link) && link.busy_until <= self.now;
            let rank = (link.slow > 0, link.pace_class(median), link.requests);
            (free && self.is_link_usable(link)).then_some(Open { node: *node, neighbour, rank })
        }));
        open
    }

    /// Whether more chunks may be asked of this neighbour at once.
    fn is_below_limit(&self, swarm: &Swarm, link: &Link) -> bool {
        let most = if has_one_neighbour(swarm) { self.config.downloads } else { self.config.per_neighbour };
        (link.requests as usize) < most
    }

    /// Nobody can be asked now: notes which neighbours have what is missing and could be asked later.
    fn note_shut(&self, swarm: &Swarm, search: &mut Search) {
        let is_shut = |neighbour: &Neighbour| {
            self.links.at(neighbour.link).is_some_and(|link| {
                link.is_up() && (!self.is_below_limit(swarm, link) || link.busy_until > self.now)
            })
        };
        let useful = swarm.neighbours.iter().filter(|(_, neighbour)| neighbour.offers > 0);
        let mut shut = useful.filter(|(_, neighbour)| is_shut(neighbour)).peekable();
        if shut.peek().is_none() {
            return;
        }
        let mut wanted = self.window(swarm);
        for chunk in swarm.readers.values().flat_map(|reader| self.in_front_of(swarm, reader)) {
            wanted.insert(ChunkIndex(chunk));
        }
        for (node, neighbour) in shut {
            let mut sent = wanted.common(&neighbour.has).map(|index| index.0);
            if let Some(chunk) = sent.find(|chunk| can_send(swarm, *chunk, neighbour)) {
                // Not now; the search notes why.
                self.can_ask_for(swarm, chunk, node, neighbour, search);
            }
        }
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

    /// The missing chunks in front of a reader.
    fn in_front_of<'a>(&self, swarm: &'a Swarm, reader: &Reader) -> impl Iterator<Item = u32> + use<'a> {
        let end = reader.chunks.end.min(swarm.chunks());
        let missing = swarm.held.missing_from(ChunkIndex(reader.cursor)).map(|index| index.0);
        missing.take_while(move |chunk| *chunk < end).take(self.config.reader_ahead)
    }

    fn pick_for_reader(
        &self,
        swarm: &Swarm,
        open: &[Open<'_>],
        rng: &mut fastrand::Rng,
    ) -> Option<(u32, NodeId)> {
        if is_small(swarm) {
            return None;
        }
        let mut ahead = swarm.readers.values().flat_map(|reader| self.in_front_of(swarm, reader));
        ahead.find_map(|chunk| {
            let may = self.may_ask(swarm, chunk);
            may.then(|| self.open_holder(swarm, chunk, open, rng)).flatten().map(|from| (chunk, from))
        })
    }

    /// The chunks among which the rarest is asked for.
    fn window(&self, swarm: &Swarm) -> ChunkSet {
        let most = self.when_fast(self.config.window) + swarm.asked.len();
        let mut window = swarm.held.first_missing(ChunkIndex(swarm.front), most);
        swarm.asked.keys().for_each(|chunk| {
            window.remove(ChunkIndex(*chunk));
        });
        for chunk in
            swarm.leases.values().filter(|held| held.is_origin()).flat_map(|held| held.lease.chunks.clone())
        {
            window.remove(ChunkIndex(chunk));
        }
        window
    }

    fn pick_rarest(
        &self,
        swarm: &Swarm,
        open: &[Open<'_>],
        rng: &mut fastrand::Rng,
    ) -> Option<(u32, NodeId)> {
        if open.is_empty() {
            return None;
        }
        let window = self.window(swarm);
        let mut near = ChunkSet::empty(swarm.chunks());
        open.iter().for_each(|open| near.add_common(&window, &open.neighbour.has));
        // There is nobody to spread chunks to, and what comes in order is hashed from memory, not read back for it.
        let alone = has_one_neighbour(swarm);
        let mut rarest: Option<((u16, u32), u32, NodeId)> = None;
        for ChunkIndex(chunk) in near.iter() {
            let rank = (swarm.copies_of(chunk), if alone { 0 } else { rng.u32(..) });
            if rarest.is_none_or(|(known, ..)| rank < known)
                && let Some(from) = self.open_holder(swarm, chunk, open, rng)
            {
                rarest = Some((rank, chunk, from));
            }
        }
        rarest.map(|(_, chunk, from)| (chunk, from))
    }

    /// Who of these is to be asked for a chunk.
    fn open_holder(
        &self,
        swarm: &Swarm,
        chunk: u32,
        open: &[Open<'_>],
        rng: &mut fastrand::Rng,
    ) -> Option<NodeId> {
        let attested = swarm.evidence.value(chunk, ClaimRef::Map(0));
        let holders = open.iter().filter(|open| {
            open.neighbour.has.contains(ChunkIndex(chunk)) && can_send(swarm, chunk, open.neighbour)
        });
        let rank = |open: &Open<'_>, rng: &mut fastrand::Rng| {
            (is_odd(swarm, chunk, open.neighbour, attested), open.rank, rng.u32(..))
        };
        holders.min_by_key(|open| rank(open, rng)).map(|open| open.node)
    }

    /// The last chunks, all of them under way: what has been so for the median time is asked of a second peer, as far
    /// as duplicates are allowed.
    fn pick_last(&self, swarm: &Swarm, search: &mut Search) -> Option<(u32, NodeId)> {
        let missing = (swarm.chunks() - swarm.held.count()) as usize;
        if missing > self.download_slots() || missing > swarm.asked.len() {
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
            } else if let Some(from) = self.other_holder(swarm, *chunk, &[request.from]) {
                return Some((*chunk, from));
            }
        }
        None
    }

    /// Somebody else who has a chunk that these were asked for already.
    pub(super) fn other_holder(&self, swarm: &Swarm, chunk: u32, asked: &[NodeId]) -> Option<NodeId> {
        let mut open = self.open_neighbours(swarm);
        open.retain(|open| !asked.contains(&open.node));
        self.open_holder(swarm, chunk, &open, &mut self.rng.clone())
    }

    fn can_ask(&self, swarm: &Swarm, chunk: u32, node: &NodeId, search: &mut Search) -> bool {
        let neighbour = swarm.neighbours.get(node);
        neighbour.is_some_and(|neighbour| self.can_ask_for(swarm, chunk, node, neighbour, search))
    }

    fn can_ask_for(
        &self,
        swarm: &Swarm,
        chunk: u32,
        node: &NodeId,
        neighbour: &Neighbour,
        search: &mut Search,
    ) -> bool {
        if !neighbour.has.contains(ChunkIndex(chunk)) || !can_send(swarm, chunk, neighbour) {
            return false;
        }
        let Some(link) = self.links.at(neighbour.link).filter(|link| link.is_up()) else { return false };
        if !(self.is_link_usable(link) || swarm.zone_source(chunk) == Some(*node)) {
            return false;
        }
        if !self.is_below_limit(swarm, link) {
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

    fn is_link_usable(&self, link: &Link) -> bool {
        self.is_link_near(link) || self.zones_open()
    }

    /// Whether a node stands in this node's zone. One that came by itself is not known yet; with a single zone it can
    /// only be near.
    pub(super) fn is_near(&self, node: &NodeId) -> bool {
        self.links.get(node).map_or(self.me.place.zone.is_empty(), |link| self.is_link_near(link))
    }

    fn is_link_near(&self, link: &Link) -> bool {
        link.near().unwrap_or(self.me.place.zone.is_empty())
    }
}

fn is_small(swarm: &Swarm) -> bool {
    swarm.layout.size() <= SMALL
}

fn has_one_neighbour(swarm: &Swarm) -> bool {
    swarm.neighbours.len() == 1
}

/// Whether what this neighbour claims to have may be what is wanted.
fn can_send(swarm: &Swarm, chunk: u32, neighbour: &Neighbour) -> bool {
    if neighbour.failed.contains(&chunk) {
        return false;
    }
    // What is noted as a neighbour's has a known value.
    if swarm.own_map.is_none() && swarm.evidence.counts_all() {
        return true;
    }
    let claim = neighbour.claim(chunk);
    let Some(value) = swarm.evidence.value(chunk, claim) else { return false };
    let known = swarm.own_map.and_then(|map| swarm.evidence.value(chunk, ClaimRef::Map(map)));
    known.is_none_or(|known| known == value) && swarm.evidence.counts(chunk, claim)
}

/// Bytes under one map only prove its signer a liar, should they be wrong.
fn is_odd(swarm: &Swarm, chunk: u32, neighbour: &Neighbour, attested: Option<ChunkValue>) -> bool {
    attested.is_some() && swarm.evidence.value(chunk, neighbour.claim(chunk)) != attested
}
