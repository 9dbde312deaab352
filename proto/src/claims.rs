//! Checking the signed claims inside messages, once each.

use std::collections::{HashSet, VecDeque};

use crate::message::{NodeMessage, PeerMessage, Proof, TrackerMessage};
use crate::{ChunkMap, EntryError, NodeId, SignedAttestation, SignedEntry};

/// How many checked claims are remembered: the entries of sixteen blobs of 1,024 chunks, half a MiB of hashes.
const REMEMBERED: usize = 16_384;

/// Checks signatures, and remembers what it checked: an entry arrives from every neighbour, and a signature
/// costs about 50 µs.
#[derive(Debug, Default)]
pub struct ClaimChecker {
    seen: HashSet<[u8; 32]>,
    order: VecDeque<[u8; 32]>,
}

impl ClaimChecker {
    /// Checks one entry.
    pub fn entry(&mut self, signed: &SignedEntry) -> Result<(), EntryError> {
        self.once(signed.fingerprint(), || signed.check())
    }

    /// Checks one attestation.
    pub fn attestation(&mut self, signed: &SignedAttestation) -> Result<(), EntryError> {
        self.once(signed.fingerprint(), || signed.check())
    }

    fn once(
        &mut self,
        fingerprint: [u8; 32],
        check: impl FnOnce() -> Result<(), EntryError>,
    ) -> Result<(), EntryError> {
        if self.seen.contains(&fingerprint) {
            return Ok(());
        }
        check()?;
        self.seen.insert(fingerprint);
        self.order.push_back(fingerprint);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.seen.remove(&oldest);
        }
        Ok(())
    }

    fn entries(&mut self, entries: &[SignedEntry]) -> Result<(), EntryError> {
        entries.iter().try_for_each(|signed| self.entry(signed))
    }

    /// Checks every claim of a message from a tracker, which relays what others signed.
    pub fn tracker(&mut self, message: &TrackerMessage) -> Result<(), EntryError> {
        match message {
            TrackerMessage::Entries { entries, .. } => self.entries(entries),
            TrackerMessage::Attested(signed) => self.attestation(signed),
            _ => Ok(()),
        }
    }

    /// Checks every claim of a message from a neighbour. An attested map must have the attested root.
    pub fn peer(&mut self, message: &PeerMessage) -> Result<(), EntryError> {
        match message {
            PeerMessage::Have { entries, .. } => self.entries(entries),
            PeerMessage::State { swarm, proof, .. } => match proof {
                Proof::Entries(entries) => self.entries(entries),
                Proof::Map { values, attestation } => {
                    let layout = swarm.layout().map_err(|_| EntryError::Root)?;
                    let map = ChunkMap::new(layout, values.clone()).map_err(|_| EntryError::Root)?;
                    if map.root() != attestation.attestation.root {
                        return Err(EntryError::Root);
                    }
                    self.attestation(attestation)
                }
            },
            _ => Ok(()),
        }
    }

    /// Checks every claim of a message from a node to its tracker: a node claims only for itself.
    pub fn node(&mut self, from: NodeId, message: &NodeMessage) -> Result<(), EntryError> {
        match message {
            NodeMessage::Progress { entries, .. } => {
                for signed in entries {
                    claimed_by(from, signed.entry.signer)?;
                }
                self.entries(entries)
            }
            NodeMessage::Complete(signed) => {
                claimed_by(from, signed.attestation.signer)?;
                self.attestation(signed)
            }
            _ => Ok(()),
        }
    }
}

fn claimed_by(from: NodeId, signer: NodeId) -> Result<(), EntryError> {
    if from == signer { Ok(()) } else { Err(EntryError::NotOwn { from, signer }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Attestation, Digest, Keypair, SwarmId};

    fn attestation(signer_seed: u8, key_seed: u8) -> SignedAttestation {
        let key = Keypair::ed25519_from_bytes([key_seed; 32]).unwrap();
        let signer = Keypair::ed25519_from_bytes([signer_seed; 32]).unwrap();
        let swarm =
            SwarmId { digest: Digest::sha256([1; 32]), size: 1, origin: "a.io".parse().unwrap(), round: 0 };
        Attestation { swarm, root: [2; 32], signer: NodeId::of(&signer.public()).unwrap() }
            .sign(&key)
            .unwrap()
    }

    #[test]
    fn a_node_speaks_only_for_itself() {
        let mut checker = ClaimChecker::default();
        let own = attestation(1, 1);
        let node = own.attestation.signer;
        assert_eq!(checker.node(node, &NodeMessage::Complete(own.clone())), Ok(()));
        let other = NodeId::from_bytes([9; 32]);
        assert!(matches!(checker.node(other, &NodeMessage::Complete(own)), Err(EntryError::NotOwn { .. })));
    }

    #[test]
    fn a_forged_claim_is_refused_again_and_again() {
        let mut checker = ClaimChecker::default();
        let forged = attestation(1, 2);
        for _ in 0..2 {
            assert!(checker.attestation(&forged).is_err());
        }
        // What was checked once is remembered by its whole content: another root needs its own check.
        let good = attestation(1, 1);
        assert!(checker.attestation(&good).is_ok());
        let mut changed = good;
        changed.attestation.root = [3; 32];
        assert!(checker.attestation(&changed).is_err());
    }
}
