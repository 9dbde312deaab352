//! One blob as the tracker knows it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::time::Duration;

use shoal_proto::{ChunkLayout, ChunkValue, NodeId, SignedAttestation, SignedEntry, SwarmId};

use super::roster::Roster;
use super::{NodeKey, ZoneKey};
use crate::Time;

/// Where a chunk is, in the cluster or in a zone, in four bytes: nowhere, leased, or at a node. That node
/// got it first; who else has it is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Absent,
    Leased,
    At(NodeKey),
}

/// A place for each chunk.
#[derive(Clone, Debug)]
pub(super) struct Places {
    slots: Vec<u32>,
    /// No chunk before this is absent.
    front: u32,
    absent: u32,
    present: u32,
}

const ABSENT: u32 = u32::MAX;
const LEASED: u32 = u32::MAX - 1;

impl Places {
    pub(super) fn new(chunks: u32) -> Self {
        Self { slots: vec![ABSENT; chunks as usize], front: 0, absent: chunks, present: 0 }
    }

    pub(super) fn get(&self, chunk: u32) -> Place {
        match self.slots.get(chunk as usize) {
            Some(&LEASED) => Place::Leased,
            Some(&ABSENT) | None => Place::Absent,
            Some(&node) => Place::At(node),
        }
    }

    pub(super) fn set(&mut self, chunk: u32, place: Place) {
        let before = self.get(chunk);
        let Some(slot) = self.slots.get_mut(chunk as usize) else { return };
        *slot = match place {
            Place::Absent => ABSENT,
            Place::Leased => LEASED,
            Place::At(node) => node,
        };
        self.absent += u32::from(place == Place::Absent);
        self.absent -= u32::from(before == Place::Absent);
        self.present += u32::from(matches!(place, Place::At(_)));
        self.present -= u32::from(matches!(before, Place::At(_)));
        if place == Place::Absent {
            self.front = self.front.min(chunk);
        }
        while self.front < self.len() && self.get(self.front) != Place::Absent {
            self.front += 1;
        }
    }

    pub(super) fn len(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn front(&self) -> u32 {
        self.front
    }

    pub(super) fn absent(&self) -> u32 {
        self.absent
    }

    pub(super) fn present(&self) -> u32 {
        self.present
    }

    /// The first absent chunks from this one on, adjacent, at most so many; from the front on where none comes after.
    pub(super) fn absent_from(&self, from: u32, most: u32) -> Range<u32> {
        let first = (from.max(self.front)..self.len()).find(|chunk| self.get(*chunk) == Place::Absent);
        let first = first.unwrap_or(self.front);
        let end = (first..self.len()).find(|chunk| self.get(*chunk) != Place::Absent);
        first..end.unwrap_or(self.len()).min(first.saturating_add(most))
    }
}

/// A node's part in a swarm.
#[derive(Clone, Debug, Default)]
pub(super) struct Member {
    pub(super) wants: bool,
    pub(super) may_lease: bool,
    pub(super) complete: bool,
    pub(super) shareable: bool,
    /// The origin refused it.
    pub(super) refused: bool,
    /// Members that it was told of, or that were told of it.
    pub(super) neighbours: BTreeSet<NodeKey>,
    /// Reports of starving while sources were said to be complete.
    pub(super) starved: u32,
}

/// A chunk that came within this time may not have been announced to all neighbours of its holder yet.
const NEWS: Duration = Duration::from_secs(2);

/// A swarm's part in a zone.
#[derive(Clone, Debug)]
pub(super) struct Zone {
    pub(super) members: Roster,
    pub(super) wanting: Roster,
    pub(super) places: Places,
    pub(super) grants: usize,
}

impl Zone {
    pub(super) fn new(chunks: u32) -> Self {
        Self {
            members: Roster::default(),
            wanting: Roster::default(),
            places: Places::new(chunks),
            grants: 0,
        }
    }
}

/// A lease that was given.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) node: NodeKey,
    /// Into which zone; `None`: from the origin.
    pub(super) zone: Option<ZoneKey>,
    /// The node of another zone that the holder was sent to.
    pub(super) source: Option<NodeKey>,
    /// What the holder was told to bring.
    pub(super) chunks: Range<u32>,
    /// Chunks still to come; few, but for an origin that sends the blob as one stream.
    pub(super) left: BTreeSet<u32>,
    pub(super) lasts: Duration,
    pub(super) ends: Time,
    /// Last progress.
    pub(super) moved: Time,
}

/// How likely a node is to have lied in a round that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Suspicion {
    /// It signed for nothing in a round that failed.
    None,
    /// It signed for chunks in such a round.
    Signed,
    /// For a chunk that it signed for another node signed another value: one of the two lied.
    Disputed,
}

/// Different values that are kept for a chunk: one is the truth, the others are liars'.
const VALUES: usize = 4;

/// Who signed first for which value of each chunk, in one round.
#[derive(Clone, Debug)]
pub(super) struct Claims(Vec<Vec<(ChunkValue, NodeId)>>);

impl Claims {
    fn new(chunks: u32) -> Self {
        Self(vec![Vec::new(); chunks as usize])
    }

    pub(super) fn of(&self, chunk: u32) -> &[(ChunkValue, NodeId)] {
        self.0.get(chunk as usize).map_or(&[], Vec::as_slice)
    }

    pub(super) fn add(&mut self, chunk: u32, value: ChunkValue, signer: NodeId) {
        let Some(claims) = self.0.get_mut(chunk as usize) else { return };
        if claims.len() < VALUES && claims.iter().all(|(known, _)| *known != value) {
            claims.reserve_exact(1);
            claims.push((value, signer));
        }
    }

    pub(super) fn signers(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.0.iter().flatten().map(|(_, signer)| *signer)
    }
}

/// One blob, in its present round.
#[derive(Clone, Debug)]
pub(super) struct Swarm {
    pub(super) id: SwarmId,
    pub(super) layout: ChunkLayout,
    pub(super) members: BTreeMap<NodeKey, Member>,
    pub(super) zones: BTreeMap<ZoneKey, Zone>,
    /// Members that have it whole and give it to nobody but members.
    pub(super) complete: BTreeMap<ZoneKey, Roster>,
    pub(super) places: Places,
    /// What was signed in this round.
    pub(super) claims: Claims,
    /// All entries of a blob of few chunks.
    pub(super) entries: Vec<SignedEntry>,
    pub(super) grants: BTreeMap<u64, Grant>,
    pub(super) origin_grants: usize,
    /// When the first member came.
    pub(super) since: Time,
    /// The origin ignores Range: whoever reads gets all, from the start.
    pub(super) one_stream: bool,
    /// Who may be given an origin lease.
    pub(super) lessees: Roster,
    /// Its place in its origin's queue.
    pub(super) queued: Option<(bool, u32)>,
    /// What was signed in rounds that ended.
    pub(super) past: Vec<Claims>,
    /// Who signed in a round that ended; absent: nothing.
    pub(super) suspicion: BTreeMap<NodeId, Suspicion>,
    pub(super) attestations: Vec<SignedAttestation>,
    /// Who said in this round that the digest does not match.
    pub(super) doubters: BTreeSet<NodeId>,
    /// Whose word began a round; once each.
    pub(super) accusers: BTreeSet<NodeId>,
    /// In a later round: who reads, and all whose entries count, the last one last.
    pub(super) reader: Option<NodeKey>,
    pub(super) readers: Vec<NodeId>,
    /// Readers of later rounds that failed as well.
    pub(super) read_before: BTreeSet<NodeId>,
    /// Chunks that came lately, the last one last.
    pub(super) news: VecDeque<(Time, u32)>,
    /// Who last found a chunk out of reach: the best to bring it, for others may have it already.
    pub(super) starving: BTreeMap<u32, NodeKey>,
    /// Sources that call themselves complete did not deliver.
    pub(super) distrusts_complete: bool,
}

impl Swarm {
    pub(super) fn new(id: SwarmId, layout: ChunkLayout, since: Time) -> Self {
        let chunks = layout.count();
        Self {
            id,
            layout,
            members: BTreeMap::new(),
            zones: BTreeMap::new(),
            complete: BTreeMap::new(),
            places: Places::new(chunks),
            claims: Claims::new(chunks),
            entries: Vec::new(),
            grants: BTreeMap::new(),
            origin_grants: 0,
            since,
            one_stream: false,
            lessees: Roster::default(),
            queued: None,
            past: Vec::new(),
            suspicion: BTreeMap::new(),
            attestations: Vec::new(),
            doubters: BTreeSet::new(),
            accusers: BTreeSet::new(),
            reader: None,
            readers: Vec::new(),
            read_before: BTreeSet::new(),
            news: VecDeque::new(),
            starving: BTreeMap::new(),
            distrusts_complete: false,
        }
    }

    pub(super) fn chunks(&self) -> u32 {
        self.layout.count()
    }

    /// The attestation that enough members signed, if no other has as many. In a later round one of them is the reader.
    pub(super) fn attested(&self, needed: usize) -> Option<&SignedAttestation> {
        let votes =
            |root: &[u8; 32]| self.attestations.iter().filter(|a| a.attestation.root == *root).count();
        let backed = self.attestations.iter().filter(|a| self.trusts(&a.attestation.signer));
        let best = backed.max_by_key(|signed| votes(&signed.attestation.root))?;
        let root = best.attestation.root;
        let others = self
            .attestations
            .iter()
            .filter(|other| other.attestation.root != root && self.trusts(&other.attestation.signer));
        let contested = others.into_iter().any(|other| votes(&other.attestation.root) >= votes(&root));
        (votes(&root) >= needed && !contested).then_some(best)
    }

    /// Whether what this node signs for counts in this round.
    pub(super) fn trusts(&self, node: &NodeId) -> bool {
        self.id.round == 0 || self.readers.contains(node)
    }

    /// Whether two rounds gave the same values, each chunk read by different nodes: then nobody lied but the origin.
    pub(super) fn readings_agree(&self) -> bool {
        let agree = |before: &Claims, chunk| match (before.of(chunk), self.claims.of(chunk)) {
            ([(value, signer)], [(again, reader)]) => value == again && signer != reader,
            _ => false,
        };
        self.past.iter().any(|before| (0..self.chunks()).all(|chunk| agree(before, chunk)))
    }

    pub(super) fn suspicion(&self, node: &NodeId) -> Suspicion {
        self.suspicion.get(node).copied().unwrap_or(Suspicion::None)
    }

    /// A node signed for a chunk. Of it and those who signed for another value, in any round, somebody lied.
    pub(super) fn claim(&mut self, chunk: u32, value: ChunkValue, signer: NodeId) {
        for claims in self.past.iter().chain([&self.claims]) {
            for (_, other) in claims.of(chunk).iter().filter(|(before, _)| *before != value) {
                self.suspicion.extend([(*other, Suspicion::Disputed), (signer, Suspicion::Disputed)]);
            }
        }
        self.claims.add(chunk, value, signer);
    }

    /// A chunk came.
    pub(super) fn note_news(&mut self, now: Time, chunk: u32) {
        while self.news.front().is_some_and(|(at, _)| now.since(*at) >= NEWS) {
            self.news.pop_front();
        }
        self.news.push_back((now, chunk));
    }

    pub(super) fn grants_of(&self, node: NodeKey, zone: Option<ZoneKey>) -> usize {
        self.grants.values().filter(|grant| grant.node == node && grant.zone == zone).count()
    }
}

/// Whether a chunk came so lately that a node may not know of it though it could have it soon.
pub(super) fn is_news(news: &VecDeque<(Time, u32)>, now: Time, chunk: u32) -> bool {
    let mut lately = news.iter().rev().take_while(|(at, _)| now.since(*at) < NEWS);
    lately.any(|(_, other)| *other == chunk)
}
