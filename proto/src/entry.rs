//! Signed claims about chunks: a lease holder signs what it read, a node whose SHA-256 matched signs the map.

use std::ops::Deref;
use std::sync::Arc;

use libp2p_identity::Keypair;

use crate::{ChunkIndex, ChunkMap, ChunkValue, NodeId, SwarmId};

/// Identifies one grant of a lease: late answers to another grant are told apart by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseToken {
    /// Drawn at random when a tracker starts.
    pub epoch: u64,
    pub counter: u64,
}

/// A checked entry of a chunk map: `signer` read this chunk under a lease and it hashed to `value`.
/// Made by [`SignedEntry::check`], or by [`Entry::new`] where the node is the signer itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub swarm: SwarmId,
    pub index: ChunkIndex,
    pub value: ChunkValue,
    pub token: LeaseToken,
    pub signer: NodeId,
}

/// An entry as it travels. Nothing in it is to be believed before [`Self::check`]. Clones share it: a node keeps each as
/// long as it fetches the blob, and tells all neighbours of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedEntry(Arc<EntryAndSignature>);

/// What a [`SignedEntry`] holds.
#[derive(Debug, PartialEq, Eq)]
pub struct EntryAndSignature {
    pub entry: Entry,
    pub signature: [u8; 64],
}

impl Deref for SignedEntry {
    type Target = EntryAndSignature;

    fn deref(&self) -> &EntryAndSignature {
        &self.0
    }
}

/// A node's claim that the SHA-256 (or SHA-512) of the blob matched and that its BLAKE3 is `root`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attestation {
    pub swarm: SwarmId,
    pub root: [u8; 32],
    pub signer: NodeId,
}

/// An attestation as it travels. Nothing in it is to be believed before [`Self::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedAttestation {
    pub attestation: Attestation,
    pub signature: [u8; 64],
}

/// Why a signed claim is worth nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("signature of {signer} does not match")]
    Signature { signer: NodeId },
    #[error("chunk {index} lies past the end of the blob")]
    PastEnd { index: ChunkIndex },
    #[error("the map's root is not the attested one")]
    Root,
    #[error("this key cannot sign: a node's key is Ed25519")]
    Key,
    #[error("{from} passed on a claim of {signer} as its own")]
    NotOwn { from: NodeId, signer: NodeId },
}

// What is signed starts with what it is, so that one kind of claim never passes as another.
const ENTRY: &[u8] = b"shoal entry 1\0";
const ATTESTATION: &[u8] = b"shoal attestation 1\0";

fn swarm_bytes(out: &mut Vec<u8>, swarm: &SwarmId) {
    // Digest and registry hold no zero byte, so the encoding is unambiguous.
    out.extend_from_slice(swarm.digest.to_string().as_bytes());
    out.push(0);
    out.extend_from_slice(swarm.origin.as_str().as_bytes());
    out.push(0);
    out.extend_from_slice(&swarm.size.to_be_bytes());
    out.extend_from_slice(&swarm.round.to_be_bytes());
}

pub(crate) fn sign(key: &Keypair, message: &[u8]) -> Result<[u8; 64], EntryError> {
    let signature = key.sign(message).map_err(|_| EntryError::Key)?;
    signature.try_into().map_err(|_| EntryError::Key)
}

pub(crate) fn check(signer: NodeId, message: &[u8], signature: &[u8; 64]) -> Result<(), EntryError> {
    let valid = signer.public_key().is_some_and(|key| key.verify(message, signature));
    if valid { Ok(()) } else { Err(EntryError::Signature { signer }) }
}

impl Entry {
    fn message(&self) -> Vec<u8> {
        let mut out = ENTRY.to_vec();
        swarm_bytes(&mut out, &self.swarm);
        out.extend_from_slice(&self.index.0.to_be_bytes());
        out.extend_from_slice(&self.value.0);
        out.extend_from_slice(&self.token.epoch.to_be_bytes());
        out.extend_from_slice(&self.token.counter.to_be_bytes());
        out
    }

    /// Signs for a chunk that this node read under `token`; `key` must be the key of `self.signer`.
    pub fn sign(self, key: &Keypair) -> Result<SignedEntry, EntryError> {
        let signature = sign(key, &self.message())?;
        Ok(SignedEntry::new(self, signature))
    }
}

/// Tells a claim with its signature from every other.
fn fingerprint(message: &[u8], signer: NodeId, signature: &[u8; 64]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(signer.as_bytes()).update(signature).update(message);
    *hasher.finalize().as_bytes()
}

impl SignedEntry {
    /// An entry with what is said to be its signature.
    pub fn new(entry: Entry, signature: [u8; 64]) -> Self {
        Self(Arc::new(EntryAndSignature { entry, signature }))
    }

    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.entry.message(), self.entry.signer, &self.signature)
    }

    /// Checks the signature and that the chunk exists.
    pub fn check(&self) -> Result<(), EntryError> {
        let index = self.entry.index;
        if !self.entry.swarm.layout().is_ok_and(|layout| layout.contains(index)) {
            return Err(EntryError::PastEnd { index });
        }
        check(self.entry.signer, &self.entry.message(), &self.signature)
    }
}

impl Attestation {
    fn message(&self) -> Vec<u8> {
        let mut out = ATTESTATION.to_vec();
        swarm_bytes(&mut out, &self.swarm);
        out.extend_from_slice(&self.root);
        out
    }

    /// Signs for a blob whose digest this node verified; `key` must be the key of `self.signer`.
    pub fn sign(self, key: &Keypair) -> Result<SignedAttestation, EntryError> {
        let signature = sign(key, &self.message())?;
        Ok(SignedAttestation { attestation: self, signature })
    }
}

impl SignedAttestation {
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        fingerprint(&self.attestation.message(), self.attestation.signer, &self.signature)
    }

    /// Checks the signature.
    pub fn check(&self) -> Result<(), EntryError> {
        check(self.attestation.signer, &self.attestation.message(), &self.signature)
    }

    /// Checks the signature and that this is the map that was attested.
    pub fn check_map(&self, map: &ChunkMap) -> Result<(), EntryError> {
        if map.root() != self.attestation.root || map.layout().size() != self.attestation.swarm.size {
            return Err(EntryError::Root);
        }
        self.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    fn entry(key: &Keypair) -> Entry {
        Entry {
            swarm: SwarmId {
                digest: Digest::sha256([1; 32]),
                size: 5 * crate::MIN_CHUNK,
                origin: "docker.io".parse().unwrap(),
                round: 0,
            },
            index: ChunkIndex(4),
            value: ChunkValue([9; 32]),
            token: LeaseToken { epoch: 1, counter: 2 },
            signer: NodeId::of(&key.public()).unwrap(),
        }
    }

    #[test]
    fn every_field_of_an_entry_is_signed() {
        let key = Keypair::ed25519_from_bytes([3; 32]).unwrap();
        let signed = entry(&key).sign(&key).unwrap();
        signed.check().unwrap();
        let changes: [fn(&mut Entry); 9] = [
            |e| e.swarm.digest = Digest::sha256([2; 32]),
            |e| e.swarm.size += 1,
            |e| e.swarm.origin = "quay.io".parse().unwrap(),
            |e| e.swarm.round = 1,
            |e| e.index = ChunkIndex(3),
            |e| e.value = ChunkValue([8; 32]),
            |e| e.token.epoch = 9,
            |e| e.token.counter = 9,
            |e| e.signer = NodeId::from_bytes([5; 32]),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut forged = signed.entry.clone();
            change(&mut forged);
            assert!(SignedEntry::new(forged, signed.signature).check().is_err(), "change {number}");
        }
    }

    #[test]
    fn an_entry_past_the_end_is_refused_even_when_signed() {
        let key = Keypair::ed25519_from_bytes([3; 32]).unwrap();
        let mut past = entry(&key);
        past.index = ChunkIndex(5);
        assert!(matches!(past.sign(&key).unwrap().check(), Err(EntryError::PastEnd { .. })));
    }
}
