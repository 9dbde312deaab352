//! Who claims what of a blob's chunks: entries of lease holders, attested maps.

use std::collections::BTreeSet;
use std::sync::Arc;

use shoal_proto::message::limit;
use shoal_proto::{
    ChunkIndex, ChunkValue, Entry, LeaseToken, NodeId, SignedAttestation, SignedEntry, SwarmId,
};

/// Different claims kept for one chunk, and different maps for one blob. One is the truth, one a liar's; more than
/// four need as many colluding signers.
const CLAIMS: usize = 4;

/// Which of the claims on a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClaimRef {
    Entry(u8),
    Map(u8),
}

/// An entry without what the swarm and the chunk's place say already.
#[derive(Clone, Debug)]
struct Claim {
    value: ChunkValue,
    token: LeaseToken,
    signer: NodeId,
    signature: [u8; 64],
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
    entries: Vec<Vec<Claim>>,
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
        Self { entries: vec![Vec::new(); chunks as usize], maps: Vec::new(), readers, root: None }
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

    /// Keeps an entry. `None` where it is one claim too many: a signer has one claim on a chunk.
    pub(super) fn add(&mut self, signed: &SignedEntry) -> Option<ClaimRef> {
        let entry = &signed.entry;
        let trusted = self.trusts(&entry.signer);
        let displaces = |claim: &Claim| {
            trusted && self.readers.as_ref().is_some_and(|readers| !readers.contains(&claim.signer))
        };
        let new = Claim {
            value: entry.value,
            token: entry.token,
            signer: entry.signer,
            signature: signed.signature,
        };
        let known = self.entries.get(entry.index.slot())?;
        let known = known.iter().enumerate().find(|(_, claim)| claim.value == entry.value);
        let known = known.map(|(nth, claim)| (nth, displaces(claim)));
        // Those who do not count leave room for those who do.
        let most = if self.readers.is_some() && trusted { CLAIMS + limit::READERS } else { CLAIMS };
        let claims = self.entries.get_mut(entry.index.slot())?;
        if let Some((nth, displaced)) = known {
            if let Some(claim) = claims.get_mut(nth).filter(|_| displaced) {
                *claim = new;
            }
            return number(nth).map(ClaimRef::Entry);
        }
        if claims.len() >= most || claims.iter().any(|claim| claim.signer == entry.signer) {
            return None;
        }
        // Nearly every chunk has one claim; growing by doubling would begin with four.
        claims.reserve_exact(1);
        claims.push(new);
        number(claims.len() - 1).map(ClaimRef::Entry)
    }

    /// Keeps a map. `None` where it has the wrong length or is one too many.
    pub(super) fn add_map(&mut self, values: &[ChunkValue], attestation: &SignedAttestation) -> Option<u8> {
        if values.len() != self.entries.len() {
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
            ClaimRef::Entry(nth) => Some(self.entries.get(chunk as usize)?.get(usize::from(nth))?.value),
            ClaimRef::Map(map) => self.map(map)?.values.get(chunk as usize).copied(),
        }
    }

    /// A claim that a chunk has this value: `known`, unless that says something else by now.
    pub(super) fn claiming(&self, chunk: u32, known: ClaimRef, value: ChunkValue) -> Option<ClaimRef> {
        let entries = self.entries.get(chunk as usize).map_or(0, Vec::len);
        let entries = (0..entries).filter_map(number).map(ClaimRef::Entry);
        let maps = (0..self.maps.len()).filter_map(number).map(ClaimRef::Map);
        let mut all = std::iter::once(known).chain(entries).chain(maps);
        all.find(|claim| self.value(chunk, *claim) == Some(value))
    }

    /// The entry as it travels; `None` where the claim is a map's.
    pub(super) fn signed(&self, swarm: &SwarmId, chunk: u32, claim: ClaimRef) -> Option<SignedEntry> {
        let ClaimRef::Entry(nth) = claim else { return None };
        let claim = self.entries.get(chunk as usize)?.get(usize::from(nth))?;
        let entry = Entry {
            swarm: swarm.clone(),
            index: ChunkIndex(chunk),
            value: claim.value,
            token: claim.token,
            signer: claim.signer,
        };
        Some(SignedEntry { entry, signature: claim.signature })
    }

    /// The entry that claims this value.
    pub(super) fn find(&self, swarm: &SwarmId, chunk: u32, value: ChunkValue) -> Option<SignedEntry> {
        let claims = self.entries.get(chunk as usize)?;
        let nth = claims.iter().position(|claim| claim.value == value).and_then(number)?;
        self.signed(swarm, chunk, ClaimRef::Entry(nth))
    }

    /// Who vouches for this value of a chunk under this claim.
    pub(super) fn signer(&self, chunk: u32, claim: ClaimRef) -> Option<NodeId> {
        match claim {
            ClaimRef::Entry(nth) => Some(self.entries.get(chunk as usize)?.get(usize::from(nth))?.signer),
            ClaimRef::Map(map) => Some(self.map(map)?.attestation.attestation.signer),
        }
    }

    /// Every claim on every chunk, as (chunk, value, signer).
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, ChunkValue, NodeId)> + '_ {
        let entries = (0u32..)
            .zip(&self.entries)
            .flat_map(|(chunk, claims)| claims.iter().map(move |claim| (chunk, claim.value, claim.signer)));
        let maps = self.maps.iter().flat_map(|map| {
            let signer = map.attestation.attestation.signer;
            (0u32..).zip(map.values.iter()).map(move |(chunk, value)| (chunk, *value, signer))
        });
        entries.chain(maps)
    }

    /// The map is known to be true now: nothing else is needed any more.
    pub(super) fn settle(&mut self, values: Arc<[ChunkValue]>, attestation: SignedAttestation) {
        self.entries.iter_mut().for_each(|claims| *claims = Vec::new());
        self.maps = vec![AttestedMap { values, attestation }];
    }
}
