//! Signed claims about layer indexes: a layer's digest says nothing about an index, so an index is worth as much as
//! the node that built it.

use libp2p_identity::Keypair;

use crate::entry::{check, sign};
use crate::{Algorithm, Digest, EntryError, NodeId};

/// Bytes of a claim as it travels: index, digest of the file, length, DiffID, signer, signature.
const LEN: usize = 32 + 32 + 8 + 32 + 32 + 64;
/// The part of it that is signed, besides the layer.
const SIGNED: usize = 32 + 32 + 8 + 32;

// What is signed starts with what it is, so that one kind of claim never passes as another.
const CLAIM: &[u8] = b"shoal layer index 1\0";

/// A node's claim that it read this layer whole, that its digest matched, and that this is its index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexClaim {
    /// Digest and bytes of the layer.
    pub layer: Digest,
    pub size: u64,
    /// BLAKE3 of the index's canonical table: two builders of one layer get the same.
    pub index: [u8; 32],
    /// SHA-256 of the index file, which may differ between builders, and its bytes.
    pub file: Digest,
    pub file_len: u64,
    /// SHA-256 of the uncompressed tar.
    pub diff_id: Digest,
    pub signer: NodeId,
}

/// A claim as it travels. Nothing in it is to be believed before [`Self::check`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedIndexClaim {
    pub claim: IndexClaim,
    pub signature: [u8; 64],
}

impl IndexClaim {
    fn message(&self) -> Vec<u8> {
        let mut out = CLAIM.to_vec();
        // A digest's text holds no zero byte, so the encoding is unambiguous.
        out.extend_from_slice(self.layer.to_string().as_bytes());
        out.push(0);
        out.extend_from_slice(&self.size.to_be_bytes());
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.index);
        out.extend_from_slice(self.file.hash());
        out.extend_from_slice(&self.file_len.to_be_bytes());
        out.extend_from_slice(self.diff_id.hash());
    }

    /// Signs for an index that this node built; `key` must be the key of `self.signer`.
    pub fn sign(self, key: &Keypair) -> Result<SignedIndexClaim, EntryError> {
        let signature = sign(key, &self.message())?;
        Ok(SignedIndexClaim { claim: self, signature })
    }
}

impl SignedIndexClaim {
    /// Bytes of [`Self::to_bytes`].
    pub const LEN: usize = LEN;

    /// Checks the signature.
    pub fn check(&self) -> Result<(), EntryError> {
        check(self.claim.signer, &self.claim.message(), &self.signature)
    }

    /// The claim without its layer, which who reads it knows.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(LEN);
        self.claim.write(&mut out);
        out.extend_from_slice(self.claim.signer.as_bytes());
        out.extend_from_slice(&self.signature);
        out
    }

    /// Reads what [`Self::to_bytes`] wrote about a layer of `size` bytes. The signature is not checked.
    pub fn from_bytes(layer: Digest, size: u64, bytes: &[u8]) -> Option<Self> {
        let (signed, rest) = bytes.split_first_chunk::<SIGNED>()?;
        let (signer, signature) = rest.split_first_chunk::<32>()?;
        let (index, rest) = signed.split_first_chunk::<32>()?;
        let (file, rest) = rest.split_first_chunk::<32>()?;
        let (file_len, diff_id) = rest.split_first_chunk::<8>()?;
        let claim = IndexClaim {
            layer,
            size,
            index: *index,
            file: Digest::sha256(*file),
            file_len: u64::from_be_bytes(*file_len),
            diff_id: Digest::from_hash(Algorithm::Sha256, diff_id)?,
            signer: NodeId::from_bytes(*signer),
        };
        Some(Self { claim, signature: signature.try_into().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(key: &Keypair) -> IndexClaim {
        IndexClaim {
            layer: Digest::sha256([1; 32]),
            size: 77,
            index: [2; 32],
            file: Digest::sha256([3; 32]),
            file_len: 99,
            diff_id: Digest::sha256([4; 32]),
            signer: NodeId::from_slice(&key.public().try_into_ed25519().unwrap().to_bytes()).unwrap(),
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let key = Keypair::ed25519_from_bytes([7; 32]).unwrap();
        let signed = claim(&key).sign(&key).unwrap();
        let bytes = signed.to_bytes();
        assert_eq!(bytes.len(), SignedIndexClaim::LEN);
        let read = SignedIndexClaim::from_bytes(signed.claim.layer, 77, &bytes).unwrap();
        assert_eq!(read, signed);
        read.check().unwrap();
        for len in 0..bytes.len() {
            assert_eq!(SignedIndexClaim::from_bytes(signed.claim.layer, 77, &bytes[..len]), None);
        }
    }

    #[test]
    fn every_byte_and_the_layer_are_signed() {
        let key = Keypair::ed25519_from_bytes([7; 32]).unwrap();
        let signed = claim(&key).sign(&key).unwrap();
        let bytes = signed.to_bytes();
        for at in 0..bytes.len() {
            let mut wrong = bytes.clone();
            wrong[at] ^= 1;
            let read = SignedIndexClaim::from_bytes(signed.claim.layer, 77, &wrong).unwrap();
            read.check().unwrap_err();
        }
        let other_layer = SignedIndexClaim::from_bytes(Digest::sha256([9; 32]), 77, &bytes).unwrap();
        other_layer.check().unwrap_err();
        SignedIndexClaim::from_bytes(signed.claim.layer, 78, &bytes).unwrap().check().unwrap_err();
    }
}
