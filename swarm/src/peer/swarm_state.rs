//! One blob as a node knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use shoal_proto::message::{Held, Lease, LeaseKind, Membership};
use shoal_proto::{
    ChunkIndex, ChunkLayout, ChunkSet, ChunkValue, LeaseToken, NodeId, SignedAttestation, SignedEntry,
    SwarmId,
};

use super::evidence::{ClaimRef, Evidence};
use super::links::LinkKey;
use super::node_map::NodeMap;
use crate::Time;

/// How far a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Fetching,
    /// All chunks are held; the driver checks the digest.
    Checking,
    Complete,
    /// The digest did not match; a new round is to come.
    Mismatched,
}

/// Another node in the same swarm.
#[derive(Clone, Debug)]
pub(super) struct Neighbour {
    pub(super) link: LinkKey,
    /// What it has, of what value: chunks without a known value are not noted.
    pub(super) has: ChunkSet,
    /// How many of these are missing here. Counted, for it is looked at many times for each chunk that comes.
    pub(super) offers: u32,
    /// The map that it sent; backs what it has, but for `odd`.
    pub(super) map: Option<u8>,
    /// Chunks that it claims with an entry other than the first one known.
    pub(super) odd: BTreeMap<u32, u8>,
    pub(super) state_sent: bool,
    /// The map that it was sent.
    pub(super) map_sent: Option<u8>,
    pub(super) complete: bool,
    /// What it failed to deliver or sent wrong, so that it is not asked again for these.
    pub(super) failed: BTreeSet<u32>,
}

impl Neighbour {
    fn new(link: LinkKey, chunks: u32) -> Self {
        Self {
            link,
            has: ChunkSet::empty(chunks),
            offers: 0,
            map: None,
            odd: BTreeMap::new(),
            state_sent: false,
            map_sent: None,
            complete: false,
            failed: BTreeSet::new(),
        }
    }

    /// Announces chunks by this map from now on; what it announced with first entries before stays so.
    pub(super) fn refers_to(&mut self, map: u8) {
        if self.map.replace(map).is_none() {
            for index in self.has.iter() {
                self.odd.entry(index.0).or_insert(0);
            }
        }
    }

    /// The claim under which it announced this chunk.
    pub(super) fn claim(&self, chunk: u32) -> ClaimRef {
        match (self.odd.get(&chunk), self.map) {
            (Some(nth), _) => ClaimRef::Entry(*nth),
            (None, Some(map)) => ClaimRef::Map(map),
            (None, None) => ClaimRef::Entry(0),
        }
    }
}

/// A lease in this node's hands.
#[derive(Clone, Debug)]
pub(super) struct HeldLease {
    pub(super) lease: Lease,
    pub(super) ends: Time,
    /// When it was granted, or brought its last chunk.
    pub(super) moved: Time,
}

impl HeldLease {
    pub(super) fn is_origin(&self) -> bool {
        self.lease.kind == LeaseKind::Origin
    }

    pub(super) fn source(&self) -> Option<NodeId> {
        match &self.lease.kind {
            LeaseKind::Origin => None,
            LeaseKind::Zone(source) => Some(source.node),
        }
    }
}

/// A waiting reader.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub(super) chunks: Range<u32>,
    /// No chunk from `chunks.start` to here is missing.
    pub(super) cursor: u32,
}

/// One blob.
#[derive(Clone, Debug)]
pub(super) struct Swarm {
    pub(super) id: SwarmId,
    pub(super) layout: ChunkLayout,
    pub(super) phase: Phase,
    pub(super) wants: bool,
    pub(super) may_lease: bool,
    /// What is whole here may be given to who reads it from another origin.
    pub(super) shareable: bool,
    pub(super) held: ChunkSet,
    /// For each held chunk the claim that it matched.
    claims: Vec<ClaimRef>,
    pub(super) evidence: Evidence,
    /// The map that this node itself verified.
    pub(super) own_map: Option<u8>,
    pub(super) neighbours: NodeMap<Neighbour>,
    /// How many neighbours have each chunk.
    pub(super) copies: Vec<u16>,
    pub(super) readers: BTreeMap<u64, Reader>,
    pub(super) leases: BTreeMap<LeaseToken, HeldLease>,
    /// Requests under way for each chunk; at most two.
    pub(super) asked: BTreeMap<u32, Vec<u64>>,
    /// No chunk before this is missing.
    pub(super) front: u32,
    /// Newly held, not yet announced.
    pub(super) fresh: Vec<u32>,
    /// Read under a lease, not yet reported.
    pub(super) progress: BTreeMap<LeaseToken, Vec<SignedEntry>>,
    /// Got under a zone lease, not yet reported.
    pub(super) zone_progress: bool,
    pub(super) flush_at: Option<Time>,
    pub(super) retry_at: Option<Time>,
    /// The chunk that was out of reach at the last look, and how much was held then.
    pub(super) starved: (Option<u32>, u32),
    /// Chunks of all blobs that this node had got at the last look.
    pub(super) got_before: u64,
    pub(super) starved_times: u32,
    /// Whether it is looked at regularly for chunks out of reach.
    pub(super) watched: bool,
    pub(super) starved_next: Time,
    pub(super) served_at: u64,
    pub(super) reported: u64,
    /// Rounds whose digest did not match.
    pub(super) past: Vec<PastRound>,
}

/// What was believed in a round that failed.
#[derive(Clone, Debug)]
pub(super) struct PastRound {
    pub(super) evidence: Evidence,
    /// The values that this node held when it found that the digest did not match.
    pub(super) refuted: Option<Arc<[ChunkValue]>>,
}

impl Swarm {
    pub(super) fn new(id: SwarmId, layout: ChunkLayout) -> Self {
        let (chunks, round) = (layout.count(), id.round);
        Self {
            id,
            layout,
            phase: Phase::Fetching,
            wants: false,
            may_lease: false,
            shareable: false,
            held: ChunkSet::empty(chunks),
            claims: vec![ClaimRef::Entry(0); chunks as usize],
            evidence: Evidence::new(chunks, round),
            own_map: None,
            neighbours: NodeMap::default(),
            copies: vec![0; chunks as usize],
            readers: BTreeMap::new(),
            leases: BTreeMap::new(),
            asked: BTreeMap::new(),
            front: 0,
            fresh: Vec::new(),
            progress: BTreeMap::new(),
            zone_progress: false,
            flush_at: None,
            retry_at: None,
            starved: (None, 0),
            got_before: 0,
            starved_times: 0,
            watched: false,
            starved_next: Time::ZERO,
            served_at: 0,
            reported: 0,
            past: Vec::new(),
        }
    }

    pub(super) fn chunks(&self) -> u32 {
        self.held.len()
    }

    pub(super) fn is_fetching(&self) -> bool {
        self.phase == Phase::Fetching && self.wants && !self.held.is_full()
    }

    /// Notes a chunk as held under this claim; false when it was.
    pub(super) fn hold(&mut self, chunk: u32, claim: ClaimRef) -> bool {
        if self.evidence.value(chunk, claim).is_none() || !self.held.insert(ChunkIndex(chunk)) {
            return false;
        }
        if let Some(slot) = self.claims.get_mut(chunk as usize) {
            *slot = claim;
        }
        for neighbour in self.neighbours.values_mut().filter(|other| other.has.contains(ChunkIndex(chunk))) {
            neighbour.offers -= 1;
        }
        while self.front < self.chunks() && self.held.contains(ChunkIndex(self.front)) {
            self.front += 1;
        }
        true
    }

    pub(super) fn lose(&mut self, chunk: u32) -> bool {
        let lost = self.held.remove(ChunkIndex(chunk));
        if lost {
            self.front = self.front.min(chunk);
            self.fresh.retain(|fresh| *fresh != chunk);
            for neighbour in
                self.neighbours.values_mut().filter(|other| other.has.contains(ChunkIndex(chunk)))
            {
                neighbour.offers += 1;
            }
            for reader in self.readers.values_mut() {
                reader.cursor = reader.cursor.min(chunk).max(reader.chunks.start);
            }
        }
        lost
    }

    /// The claim that a held chunk matched.
    pub(super) fn held_claim(&self, chunk: u32) -> Option<ClaimRef> {
        let held = self.held.contains(ChunkIndex(chunk));
        held.then(|| self.claims.get(chunk as usize).copied()).flatten()
    }

    pub(super) fn held_value(&self, chunk: u32) -> Option<ChunkValue> {
        self.evidence.value(chunk, self.held_claim(chunk)?)
    }

    pub(super) fn signed(&self, chunk: u32) -> Option<SignedEntry> {
        self.evidence.signed(chunk, self.held_claim(chunk)?)
    }

    /// A new neighbour, of which nothing is known yet.
    pub(super) fn add_neighbour(&mut self, node: NodeId, link: LinkKey) {
        self.neighbours.insert(node, Neighbour::new(link, self.held.len()));
    }

    pub(super) fn drop_neighbour(&mut self, node: &NodeId) -> Option<Neighbour> {
        let gone = self.neighbours.remove(node)?;
        for index in gone.has.iter() {
            if let Some(copies) = self.copies.get_mut(index.slot()) {
                *copies = copies.saturating_sub(1);
            }
        }
        Some(gone)
    }

    /// Notes that a neighbour has a chunk under this claim.
    pub(super) fn note_has(&mut self, node: &NodeId, chunk: u32, claim: ClaimRef) {
        let Some(neighbour) = self.neighbours.get_mut(node) else { return };
        if claim != neighbour.claim(chunk)
            && let ClaimRef::Entry(nth) = claim
        {
            neighbour.odd.insert(chunk, nth);
            neighbour.failed.remove(&chunk);
        }
        if neighbour.has.insert(ChunkIndex(chunk))
            && let Some(copies) = self.copies.get_mut(chunk as usize)
        {
            *copies = copies.saturating_add(1);
            neighbour.offers += u32::from(!self.held.contains(ChunkIndex(chunk)));
        }
    }

    pub(super) fn note_lacks(&mut self, node: &NodeId, chunk: u32) {
        let Some(neighbour) = self.neighbours.get_mut(node) else { return };
        neighbour.odd.remove(&chunk);
        if neighbour.has.remove(ChunkIndex(chunk))
            && let Some(copies) = self.copies.get_mut(chunk as usize)
        {
            *copies = copies.saturating_sub(1);
            neighbour.offers -= u32::from(!self.held.contains(ChunkIndex(chunk)));
        }
    }

    pub(super) fn copies_of(&self, chunk: u32) -> u16 {
        self.copies.get(chunk as usize).copied().unwrap_or(0)
    }

    /// Whether this node reads the chunk from the origin itself.
    pub(super) fn is_leased(&self, chunk: u32) -> bool {
        self.leases.values().any(|held| held.is_origin() && held.lease.chunks.contains(&chunk))
    }

    /// The source of the zone lease on this chunk, if this node holds one.
    pub(super) fn zone_source(&self, chunk: u32) -> Option<NodeId> {
        self.leases.values().find(|held| held.lease.chunks.contains(&chunk)).and_then(HeldLease::source)
    }

    /// Missing chunks from the front on.
    pub(super) fn missing(&self) -> impl Iterator<Item = u32> + '_ {
        self.held.missing_from(ChunkIndex(self.front)).map(|index| index.0)
    }

    /// The values of all chunks, once all are held.
    pub(super) fn values(&self) -> Option<Arc<[ChunkValue]>> {
        (0..self.chunks()).map(|chunk| self.held_value(chunk)).collect()
    }

    /// Whether what is here may be given to a node that is in this swarm of the same bytes.
    pub(super) fn serves(&self, other: &SwarmId) -> bool {
        self.own_map.is_some() && (self.shareable || self.id.origin == other.origin)
    }

    /// Who vouches for a chunk that is held.
    pub(super) fn voucher(&self, chunk: u32) -> Option<NodeId> {
        self.evidence.signer(chunk, self.held_claim(chunk)?)
    }

    pub(super) fn membership(&self) -> Membership {
        let held = match self.phase {
            Phase::Complete => Held::Complete,
            _ => Held::Some(self.held.clone()),
        };
        let (wants, may_lease, shareable) = (self.wants, self.may_lease, self.shareable);
        Membership { swarm: self.id.clone(), held, wants, may_lease, shareable }
    }

    /// The digest matched: the values that are held are the truth.
    pub(super) fn complete(&mut self, attestation: SignedAttestation) {
        let Some(values) = self.values() else { return };
        for neighbour in self.neighbours.values_mut() {
            let same_map =
                neighbour.map.and_then(|map| self.evidence.map(map)).is_some_and(|map| map.values == values);
            neighbour.map = same_map.then_some(0);
            neighbour.map_sent = None;
            neighbour.odd = BTreeMap::new();
        }
        self.evidence.settle(values, attestation);
        self.own_map = Some(0);
        self.claims.iter_mut().for_each(|claim| *claim = ClaimRef::Map(0));
        self.phase = Phase::Complete;
        // Should it lose a chunk, that is fetched for whoever asks for it, and not before.
        self.wants = false;
        self.past = Vec::new();
    }
}
