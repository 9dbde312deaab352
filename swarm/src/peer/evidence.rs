//! Who claims what of a blob's chunks: entries of lease holders, attested maps.

use std::sync::Arc;

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
}

fn number(position: usize) -> Option<u8> {
    u8::try_from(position).ok()
}

impl Evidence {
    pub(super) fn new(chunks: u32) -> Self {
        Self { entries: vec![Vec::new(); chunks as usize], maps: Vec::new() }
    }

    /// Keeps an entry. `None` where it is one claim too many: a signer has one claim on a chunk.
    pub(super) fn add(&mut self, signed: &SignedEntry) -> Option<ClaimRef> {
        let entry = &signed.entry;
        let claims = self.entries.get_mut(entry.index.slot())?;
        if let Some(known) = claims.iter().position(|claim| claim.value == entry.value) {
            return number(known).map(ClaimRef::Entry);
        }
        if claims.len() >= CLAIMS || claims.iter().any(|claim| claim.signer == entry.signer) {
            return None;
        }
        // Nearly every chunk has one claim; growing by doubling would begin with four.
        claims.reserve_exact(1);
        claims.push(Claim {
            value: entry.value,
            token: entry.token,
            signer: entry.signer,
            signature: signed.signature,
        });
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
