//! Who claims what of a blob's chunks: entries of lease holders, attested maps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_proto::message::limit;
use shoal_proto::{ChunkValue, NodeId, SignedAttestation, SignedEntry};

/// Different claims kept for one chunk, and different maps for one blob. One is the truth, one a liar's; more than
/// four need as many colluding signers.
const CLAIMS: usize = 4;

/// Which of the claims on a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimRef {
    Entry(u8),
    Map(u8),
}

/// The map of a blob, with who vouches for it.
#[derive(Clone, Debug)]
pub(super) struct AttestedMap {
    pub(super) values: Arc<[ChunkValue]>,
    pub(super) attestation: SignedAttestation,
}

/// All claims on the chunks of one blob in one round.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    /// The first entry for each chunk; nearly always the only one.
    firsts: Vec<Option<SignedEntry>>,
    /// Entries that claim another value.
    others: BTreeMap<u32, Vec<SignedEntry>>,
    maps: Vec<AttestedMap>,
    /// In a later round, whose claims count; others are kept, for whoever signed may be appointed yet.
    readers: Option<BTreeSet<NodeId>>,
    /// The root that one of them attested: whoever passes on that map, it counts.
    root: Option<[u8; 32]>,
}

fn number(position: usize) -> Option<u8> {
    u8::try_from(position).ok()
}

impl Evidence {
    /// Nothing is known yet. In the first round everybody's entries count, in a later one nobody's before [`Self::trust`].
    pub(super) fn new(chunks: u32, round: u32) -> Self {
        let readers = (round > 0).then(BTreeSet::new);
        let firsts = vec![None; chunks as usize];
        Self { firsts, others: BTreeMap::new(), maps: Vec::new(), readers, root: None }
    }

    /// In a later round only what these nodes sign for counts.
    pub(super) fn trust(&mut self, readers: &[NodeId]) {
        if let Some(known) = &mut self.readers {
            *known = readers.iter().copied().collect();
        }
    }

    /// The tracker says that this was attested by whom it relies on.
    pub(super) fn trust_root(&mut self, root: [u8; 32]) {
        self.root = Some(root);
    }

    /// Whether this node's claims count.
    pub(super) fn trusts(&self, signer: &NodeId) -> bool {
        self.readers.as_ref().is_none_or(|readers| readers.contains(signer))
    }

    /// Whether every claim counts: in the first round.
    pub(super) fn counts_all(&self) -> bool {
        self.readers.is_none()
    }

    /// Whether a claim counts.
    pub(super) fn counts(&self, chunk: u32, claim: ClaimRef) -> bool {
        if let ClaimRef::Map(map) = claim
            && self.root.is_some()
            && self.map(map).map(|map| map.attestation.attestation.root) == self.root
        {
            return true;
        }
        self.signer(chunk, claim).is_some_and(|signer| self.trusts(&signer))
    }

    /// The entries for a chunk, the first one first.
    fn entries(&self, chunk: u32) -> impl Iterator<Item = &SignedEntry> {
        let first = self.firsts.get(chunk as usize).and_then(Option::as_ref);
        first.into_iter().chain(self.others.get(&chunk).into_iter().flatten())
    }

    fn entry(&self, chunk: u32, nth: u8) -> Option<&SignedEntry> {
        match usize::from(nth).checked_sub(1) {
            None => self.firsts.get(chunk as usize)?.as_ref(),
            Some(other) => self.others.get(&chunk)?.get(other),
        }
    }

    /// Keeps an entry. `None` where it is one claim too many: a signer has one claim on a chunk.
    pub(super) fn add(&mut self, signed: &SignedEntry) -> Option<ClaimRef> {
        let (chunk, value, signer) = (signed.entry.index.0, signed.entry.value, signed.entry.signer);
        let known = self.entries(chunk).position(|known| known.entry.value == value);
        if let Some(nth) = known.and_then(number) {
            let displaced = self.trusts(&signer)
                && self.entry(chunk, nth).is_some_and(|known| !self.trusts(&known.entry.signer));
            if displaced {
                *self.slot(chunk, nth)? = signed.clone();
            }
            return Some(ClaimRef::Entry(nth));
        }
        // Those who do not count leave room for those who do.
        let most =
            if self.readers.is_some() && self.trusts(&signer) { CLAIMS + limit::READERS } else { CLAIMS };
        let count = self.entries(chunk).count();
        if count >= most || self.entries(chunk).any(|known| known.entry.signer == signer) {
            return None;
        }
        let first = self.firsts.get_mut(chunk as usize)?;
        if first.is_none() {
            *first = Some(signed.clone());
        } else {
            self.others.entry(chunk).or_default().push(signed.clone());
        }
        number(count).map(ClaimRef::Entry)
    }

    fn slot(&mut self, chunk: u32, nth: u8) -> Option<&mut SignedEntry> {
        match usize::from(nth).checked_sub(1) {
            None => self.firsts.get_mut(chunk as usize)?.as_mut(),
            Some(other) => self.others.get_mut(&chunk)?.get_mut(other),
        }
    }

    /// Keeps a map. `None` where it has the wrong length or is one too many.
    pub(super) fn add_map(&mut self, values: &[ChunkValue], attestation: &SignedAttestation) -> Option<u8> {
        if values.len() != self.firsts.len() {
            return None;
        }
        if let Some(known) = self.maps.iter().position(|map| *map.values == *values) {
            return number(known);
        }
        if self.maps.len() >= CLAIMS {
            return None;
        }
        self.maps.push(AttestedMap { values: values.into(), attestation: attestation.clone() });
        number(self.maps.len() - 1)
    }

    pub(super) fn map(&self, map: u8) -> Option<&AttestedMap> {
        self.maps.get(usize::from(map))
    }

    pub(super) fn maps(&self) -> &[AttestedMap] {
        &self.maps
    }

    pub(super) fn value(&self, chunk: u32, claim: ClaimRef) -> Option<ChunkValue> {
        match claim {
            ClaimRef::Entry(nth) => Some(self.entry(chunk, nth)?.entry.value),
            ClaimRef::Map(map) => self.map(map)?.values.get(chunk as usize).copied(),
        }
    }

    /// A claim that a chunk has this value: `known`, unless that says something else by now.
    pub(super) fn claiming(&self, chunk: u32, known: ClaimRef, value: ChunkValue) -> Option<ClaimRef> {
        let entries = (0..self.entries(chunk).count()).filter_map(number).map(ClaimRef::Entry);
        let maps = (0..self.maps.len()).filter_map(number).map(ClaimRef::Map);
        let mut all = std::iter::once(known).chain(entries).chain(maps);
        all.find(|claim| self.value(chunk, *claim) == Some(value))
    }

    /// The entry that a claim is; `None` where the claim is a map's.
    pub(super) fn signed(&self, chunk: u32, claim: ClaimRef) -> Option<SignedEntry> {
        let ClaimRef::Entry(nth) = claim else { return None };
        self.entry(chunk, nth).cloned()
    }

    /// The entry that claims this value.
    pub(super) fn find(&self, chunk: u32, value: ChunkValue) -> Option<SignedEntry> {
        self.entries(chunk).find(|signed| signed.entry.value == value).cloned()
    }

    /// Who vouches for this value of a chunk under this claim.
    pub(super) fn signer(&self, chunk: u32, claim: ClaimRef) -> Option<NodeId> {
        match claim {
            ClaimRef::Entry(nth) => Some(self.entry(chunk, nth)?.entry.signer),
            ClaimRef::Map(map) => Some(self.map(map)?.attestation.attestation.signer),
        }
    }

    /// Every claim on every chunk, as (chunk, value, signer).
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, ChunkValue, NodeId)> + '_ {
        let entries = self.firsts.iter().flatten().chain(self.others.values().flatten());
        let entries = entries.map(|signed| (signed.entry.index.0, signed.entry.value, signed.entry.signer));
        let maps = self.maps.iter().flat_map(|map| {
            let signer = map.attestation.attestation.signer;
            (0u32..).zip(map.values.iter()).map(move |(chunk, value)| (chunk, *value, signer))
        });
        entries.chain(maps)
    }

    /// The map is known to be true now: nothing else is needed any more.
    pub(super) fn settle(&mut self, values: Arc<[ChunkValue]>, attestation: SignedAttestation) {
        self.firsts.fill(None);
        self.others = BTreeMap::new();
        self.maps = vec![AttestedMap { values, attestation }];
    }
}
