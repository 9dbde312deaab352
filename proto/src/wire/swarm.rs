//! What several messages are made of: digests, swarms, tokens, places, signed claims.

use super::{Of, Refusal, WireError, at_most, name, v1};
use crate::message::{Held, PeerInfo, Place, limit};
use crate::{
    Algorithm, Attestation, ChunkIndex, ChunkLayout, ChunkSet, ChunkValue, Digest, Entry, LeaseToken, NodeId,
    SignedAttestation, SignedEntry, SwarmId,
};

impl From<&Digest> for v1::Digest {
    fn from(digest: &Digest) -> Self {
        let bytes = digest.hash().to_vec();
        let hash = match digest.algorithm() {
            Algorithm::Sha256 => v1::digest::Hash::Sha256(bytes),
            Algorithm::Sha512 => v1::digest::Hash::Sha512(bytes),
        };
        Self { hash: Some(hash) }
    }
}

impl TryFrom<v1::Digest> for Digest {
    type Error = WireError;

    fn try_from(wire: v1::Digest) -> Result<Self, WireError> {
        let (algorithm, bytes) = match wire.hash.of("digest")? {
            v1::digest::Hash::Sha256(bytes) => (Algorithm::Sha256, bytes),
            v1::digest::Hash::Sha512(bytes) => (Algorithm::Sha512, bytes),
        };
        let refused = Refusal::Length { got: bytes.len(), want: algorithm.hash_len() };
        Self::from_hash(algorithm, &bytes).ok_or(refused).of("digest")
    }
}

impl From<&SwarmId> for v1::Swarm {
    fn from(swarm: &SwarmId) -> Self {
        Self {
            digest: Some((&swarm.digest).into()),
            size: swarm.size,
            origin: swarm.origin.to_string(),
            round: swarm.round,
        }
    }
}

impl TryFrom<v1::Swarm> for SwarmId {
    type Error = WireError;

    fn try_from(wire: v1::Swarm) -> Result<Self, WireError> {
        ChunkLayout::new(wire.size).of("size of the blob")?;
        Ok(Self {
            digest: wire.digest.of("digest")?.try_into()?,
            size: wire.size,
            origin: wire.origin.parse().of("origin")?,
            round: wire.round,
        })
    }
}

/// The swarm that a message speaks of, and how its blob is cut.
pub(super) fn swarm(wire: Option<v1::Swarm>) -> Result<(SwarmId, ChunkLayout), WireError> {
    let swarm = SwarmId::try_from(wire.of("swarm")?)?;
    let layout = swarm.layout().of("size of the blob")?;
    Ok((swarm, layout))
}

impl From<&LeaseToken> for v1::LeaseToken {
    fn from(token: &LeaseToken) -> Self {
        Self { epoch: token.epoch, counter: token.counter }
    }
}

impl From<v1::LeaseToken> for LeaseToken {
    fn from(wire: v1::LeaseToken) -> Self {
        Self { epoch: wire.epoch, counter: wire.counter }
    }
}

pub(super) fn token(wire: Option<v1::LeaseToken>) -> Result<LeaseToken, WireError> {
    wire.map(LeaseToken::from).of("lease token")
}

impl From<&PeerInfo> for v1::PeerInfo {
    fn from(peer: &PeerInfo) -> Self {
        Self {
            node: peer.node.as_bytes().to_vec(),
            addresses: peer.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            zone: peer.place.zone.to_string(),
            rack: peer.place.rack.to_string(),
        }
    }
}

impl TryFrom<v1::PeerInfo> for PeerInfo {
    type Error = WireError;

    fn try_from(wire: v1::PeerInfo) -> Result<Self, WireError> {
        at_most("addresses", wire.addresses.split_ascii_whitespace().count(), limit::ADDRESSES)?;
        let addresses = wire.addresses.split_ascii_whitespace();
        let addresses = addresses.map(|text| text.parse().map_err(|_| Refusal::Address));
        Ok(Self {
            node: NodeId::from_slice(&wire.node).of("node")?,
            addresses: addresses.collect::<Result<_, _>>().of("addresses")?,
            place: Place { zone: name("zone", wire.zone)?, rack: name("rack", wire.rack)? },
        })
    }
}

impl From<&Held> for v1::Held {
    fn from(held: &Held) -> Self {
        match held {
            Held::Some(set) => Self { complete: false, chunks: set.to_bytes() },
            Held::Complete => Self { complete: true, chunks: Vec::new() },
        }
    }
}

pub(super) fn held(layout: &ChunkLayout, wire: Option<v1::Held>) -> Result<Held, WireError> {
    let wire = wire.of("held")?;
    if !wire.complete {
        return ChunkSet::from_bytes(layout.count(), &wire.chunks).map(Held::Some).of("held");
    }
    let refused = Refusal::Length { got: wire.chunks.len(), want: 0 };
    if wire.chunks.is_empty() { Ok(Held::Complete) } else { Err(refused).of("held") }
}

pub(super) fn index(layout: &ChunkLayout, index: u32) -> Result<ChunkIndex, WireError> {
    let index = ChunkIndex(index);
    if layout.contains(index) { Ok(index) } else { Err(Refusal::PastEnd(index)).of("chunk") }
}

/// Chunks of one blob.
pub(super) fn chunks_to_wire(swarm: &SwarmId, chunks: &[ChunkIndex]) -> v1::Chunks {
    v1::Chunks { swarm: Some(swarm.into()), indexes: chunks.iter().map(|index| index.0).collect() }
}

pub(super) fn chunks(wire: v1::Chunks) -> Result<(SwarmId, Vec<ChunkIndex>), WireError> {
    let (swarm, layout) = swarm(wire.swarm)?;
    at_most("chunks", wire.indexes.len(), layout.count() as usize)?;
    let chunks = wire.indexes.into_iter().map(|number| index(&layout, number)).collect::<Result<_, _>>()?;
    Ok((swarm, chunks))
}

/// Bytes of a signed entry without its swarm: index, value, epoch, counter, signer, signature.
const RECORD: usize = 4 + 32 + 8 + 8 + 32 + 64;

fn write_record(out: &mut Vec<u8>, signed: &SignedEntry) {
    let entry = &signed.entry;
    out.extend_from_slice(&entry.index.0.to_be_bytes());
    out.extend_from_slice(&entry.value.0);
    out.extend_from_slice(&entry.token.epoch.to_be_bytes());
    out.extend_from_slice(&entry.token.counter.to_be_bytes());
    out.extend_from_slice(entry.signer.as_bytes());
    out.extend_from_slice(&signed.signature);
}

/// Takes the next `N` bytes off the front; `None` when there are fewer.
fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn read_record(
    swarm: &SwarmId,
    layout: &ChunkLayout,
    record: &[u8; RECORD],
) -> Result<SignedEntry, WireError> {
    let mut rest = record.as_slice();
    let mut read = || {
        Some((
            u32::from_be_bytes(take(&mut rest)?),
            ChunkValue(take(&mut rest)?),
            u64::from_be_bytes(take(&mut rest)?),
            u64::from_be_bytes(take(&mut rest)?),
            NodeId::from_bytes(take(&mut rest)?),
            take(&mut rest)?,
        ))
    };
    let (number, value, epoch, counter, signer, signature) = read().of("entry")?;
    let index = index(layout, number)?;
    let token = LeaseToken { epoch, counter };
    Ok(SignedEntry::new(Entry { swarm: swarm.clone(), index, value, token, signer }, signature))
}

/// Entries of one swarm. An entry of another swarm has no place in the message and is left out: under this
/// swarm's name its signature would not match, and the sender would pass for a liar.
pub(super) fn entries_to_wire(swarm: &SwarmId, entries: &[SignedEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * RECORD);
    for signed in entries.iter().filter(|signed| signed.entry.swarm == *swarm) {
        write_record(&mut out, signed);
    }
    out
}

pub(super) fn entries(
    swarm: &SwarmId,
    layout: &ChunkLayout,
    wire: &[u8],
) -> Result<Vec<SignedEntry>, WireError> {
    let (records, cut) = wire.as_chunks::<RECORD>();
    if !cut.is_empty() {
        return Err(Refusal::Cut(cut.len())).of("entries");
    }
    at_most("entries", records.len(), limit::ENTRIES)?;
    records.iter().map(|record| read_record(swarm, layout, record)).collect()
}

impl From<&SignedEntry> for v1::SwarmEntry {
    fn from(signed: &SignedEntry) -> Self {
        let mut entry = Vec::with_capacity(RECORD);
        write_record(&mut entry, signed);
        Self { swarm: Some((&signed.entry.swarm).into()), entry }
    }
}

impl TryFrom<v1::SwarmEntry> for SignedEntry {
    type Error = WireError;

    fn try_from(wire: v1::SwarmEntry) -> Result<Self, WireError> {
        let (swarm, layout) = swarm(wire.swarm)?;
        let refused = Refusal::Length { got: wire.entry.len(), want: RECORD };
        let record = wire.entry.as_slice().try_into().map_err(|_| refused).of("entry")?;
        read_record(&swarm, &layout, record)
    }
}

/// An attestation without its swarm.
pub(super) fn attestation_to_wire(signed: &SignedAttestation) -> v1::Attestation {
    v1::Attestation {
        root: signed.attestation.root.to_vec(),
        signer: signed.attestation.signer.as_bytes().to_vec(),
        signature: signed.signature.to_vec(),
    }
}

pub(super) fn attestation(
    swarm: SwarmId,
    wire: Option<v1::Attestation>,
) -> Result<SignedAttestation, WireError> {
    let wire = wire.of("attestation")?;
    let length = |bytes: &[u8], want| Refusal::Length { got: bytes.len(), want };
    let root = wire.root.as_slice().try_into().map_err(|_| length(&wire.root, 32)).of("root")?;
    let signer = NodeId::from_slice(&wire.signer).of("signer")?;
    let signature =
        wire.signature.as_slice().try_into().map_err(|_| length(&wire.signature, 64)).of("signature")?;
    Ok(SignedAttestation { attestation: Attestation { swarm, root, signer }, signature })
}

impl From<&SignedAttestation> for v1::SwarmAttestation {
    fn from(signed: &SignedAttestation) -> Self {
        let swarm = Some((&signed.attestation.swarm).into());
        Self { swarm, attestation: Some(attestation_to_wire(signed)) }
    }
}

impl TryFrom<v1::SwarmAttestation> for SignedAttestation {
    type Error = WireError;

    fn try_from(wire: v1::SwarmAttestation) -> Result<Self, WireError> {
        attestation(swarm(wire.swarm)?.0, wire.attestation)
    }
}
