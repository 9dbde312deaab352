//! Who a node is.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use libp2p_identity::{PeerId, PublicKey, ed25519};

/// A node's identity: its Ed25519 public key. Shown as the libp2p `PeerId` (`12D3KooW…`).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeId([u8; 32]);

impl Ord for NodeId {
    // The order of the bytes. Keys differ in their first ones, so comparing those as a number nearly always decides; maps
    // of nodes compare a great deal.
    fn cmp(&self, other: &Self) -> Ordering {
        self.head().cmp(&other.head()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for NodeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Why bytes or a text are not a node's identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeIdError {
    #[error("a node's identity is the PeerId of an Ed25519 key (12D3KooW…)")]
    NotEd25519,
    #[error("a node's identity has 32 bytes, this has {0}")]
    Length(usize),
}

impl NodeId {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn from_slice(bytes: &[u8]) -> Result<Self, NodeIdError> {
        bytes.try_into().map(Self).map_err(|_| NodeIdError::Length(bytes.len()))
    }

    /// The identity of this key; `None` when it is not an Ed25519 key.
    pub fn of(key: &PublicKey) -> Option<Self> {
        key.clone().try_into_ed25519().ok().map(|key| Self(key.to_bytes()))
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn head(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }

    /// The public key, to check signatures with; `None` when the bytes are not a point of the curve.
    pub fn public_key(&self) -> Option<PublicKey> {
        ed25519::PublicKey::try_from_bytes(&self.0).ok().map(PublicKey::from)
    }
}

// What precedes the key in the PeerId of an Ed25519 key: identity multihash of 36 bytes holding the
// protobuf {type: Ed25519, data: 32 bytes} (libp2p peer-ids specification).
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, NodeIdError> {
        let peer: PeerId = text.parse().map_err(|_| NodeIdError::NotEd25519)?;
        let bytes = peer.to_bytes();
        let key = bytes.strip_prefix(&PEER_ID_PREFIX).ok_or(NodeIdError::NotEd25519)?;
        Self::from_slice(key)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = PEER_ID_PREFIX.to_vec();
        bytes.extend_from_slice(&self.0);
        match PeerId::from_bytes(&bytes) {
            Ok(peer) => fmt::Display::fmt(&peer, f),
            Err(_) => f.write_str(&hex::encode(self.0)),
        }
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_as_the_peer_id_of_the_key() {
        let key = libp2p_identity::Keypair::ed25519_from_bytes([7; 32]).unwrap();
        let node = NodeId::of(&key.public()).unwrap();
        assert_eq!(node.to_string(), key.public().to_peer_id().to_string());
        assert_eq!(node.to_string().parse::<NodeId>().unwrap(), node);
        assert_eq!(node.public_key().unwrap(), key.public());
    }

    #[test]
    fn other_names_are_refused() {
        for text in ["", "node-1", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG"] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
    }
}
