//! Which index of a layer this node goes by: its own, or one that members vouch for.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use shoal_proto::message::{Part, RangeRequest};
use shoal_proto::{Digest, IndexClaim, NodeId, SignedIndexClaim, SwarmId};
use shoal_store::{IndexFact, Store};
use shoal_transport::FetchedChunk;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::indexer::Indexer;
use super::ranges::Ranges;
use crate::blobs::Wanted;
use crate::config::IndexTrust;

/// Claims of others that are remembered, some 300 bytes each.
const MOST: usize = 4096;
/// Members that are asked for one layer.
const ASKED: usize = 8;

/// Why there is no index to go by.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoClaim {
    /// Not now.
    #[error("no member that may have its index answers")]
    Nobody,
    #[error("no member has an index of it")]
    Unknown,
    #[error("{0} of the 2 members that [lazy] index_trust wants vouch for its index")]
    TooFew(usize),
    #[error("it has no index: {0}")]
    Declined(String),
}

/// Finds out which index to go by. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    store: Store,
    ranges: Ranges,
    trust: IndexTrust,
    indexer: Indexer,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<SwarmId, IndexClaim>,
    revoked: Revoked,
}

/// Indexes whose layer turned out to be something else, and who built them.
#[derive(Debug, Default)]
struct Revoked {
    indexes: HashSet<[u8; 32]>,
    builders: HashSet<NodeId>,
}

impl Revoked {
    /// Whether this claim may still count. Who stands by a revoked index is believed about no other one either.
    fn allows(&mut self, claim: &IndexClaim) -> bool {
        if self.indexes.contains(&claim.index) && self.builders.len() < MOST {
            self.builders.insert(claim.signer);
        }
        !self.indexes.contains(&claim.index) && !self.builders.contains(&claim.signer)
    }
}

impl Claims {
    pub(crate) fn new(store: Store, ranges: Ranges, trust: IndexTrust, indexer: Indexer) -> Self {
        Self { store, ranges, trust, indexer, state: Arc::default() }
    }

    /// The index of a layer.
    pub(super) async fn of(&self, layer: &Wanted) -> Result<IndexClaim, NoClaim> {
        let swarm = swarm_of(layer);
        let (store, digest, size) = (self.store.clone(), layer.digest, layer.size);
        let indexer = self.indexer.clone();
        let own = tokio::task::spawn_blocking(move || {
            let own = own(&store, &digest, size);
            if own.is_none() {
                indexer.is_missed(&store, &digest);
            }
            own
        });
        let own = own.await;
        if let Ok(Some(own)) = own {
            return own;
        }
        let remembered = self.state().known.get(&swarm).cloned();
        if let Some(claim) = remembered {
            return Ok(claim);
        }
        let claim = self.ask(layer, &swarm).await?;
        let known = &mut self.state().known;
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(swarm, claim.clone());
        Ok(claim)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layer's tar, all of it, has another DiffID than the builders of this index computed.
    pub(super) async fn revoke(&self, layer: Digest, index: [u8; 32]) {
        warn!(%layer, "an index turned out wrong; neither it nor who built it is believed any more");
        {
            let state = &mut *self.state();
            if state.revoked.indexes.len() < MOST {
                state.revoked.indexes.insert(index);
            }
            // First it shows who built it, then what else is theirs.
            for _ in 0..2 {
                state.known.retain(|_, claim| state.revoked.allows(claim));
            }
        }
        let store = self.store.clone();
        let work = move || {
            let size = store.complete(&layer).map_or(0, |known| known.swarm.size);
            match own(&store, &layer, size) {
                // This node's own disk or memory failed it; it may build another one.
                Some(Ok(claim)) if claim.index == index => store.remove_index(&layer),
                _ => Ok(()),
            }
        };
        if let Ok(Err(error)) = tokio::task::spawn_blocking(work).await {
            warn!(%layer, %error, "cannot remove a wrong index");
        }
    }

    async fn ask(&self, layer: &Wanted, swarm: &SwarmId) -> Result<IndexClaim, NoClaim> {
        let holders = self.ranges.holders(layer).await;
        let mut asking: FuturesUnordered<_> = holders
            .into_iter()
            .take(ASKED)
            .map(|holder| async move {
                let len = SignedIndexClaim::LEN as u64;
                let request = RangeRequest { swarm: swarm.clone(), part: Part::Claim, range: 0..len };
                (holder.node, self.ranges.ask(&holder, request, watch::Sender::default()).await)
            })
            .collect();
        let (mut answered, mut claims) = (false, Vec::<IndexClaim>::new());
        while let Some((from, answer)) = asking.next().await {
            let bytes = match answer {
                Ok(FetchedChunk::Bytes(bytes)) => bytes,
                Ok(_) => {
                    answered = true;
                    continue;
                }
                Err(error) => {
                    debug!(peer = %from, %error, "no claim");
                    continue;
                }
            };
            answered = true;
            let Some(claim) = checked(from, swarm, &bytes) else { continue };
            if !self.state().revoked.allows(&claim) {
                continue;
            }
            // Whoever is named twice still vouches once.
            if claims.iter().any(|other| other.signer == claim.signer) {
                continue;
            }
            let same = |other: &&IndexClaim| (other.index, other.diff_id) == (claim.index, claim.diff_id);
            let vouching = 1 + claims.iter().filter(same).count();
            if vouching >= self.trust.builders() {
                return Ok(claim);
            }
            claims.push(claim);
        }
        // By the next time others may have built it.
        self.ranges.forget_holders(swarm);
        match claims.len() {
            0 if answered => Err(NoClaim::Unknown),
            0 => Err(NoClaim::Nobody),
            some => Err(NoClaim::TooFew(some)),
        }
    }
}

/// The layer as the swarms know it.
pub(super) fn swarm_of(layer: &Wanted) -> SwarmId {
    SwarmId { digest: layer.digest, size: layer.size, origin: layer.registry.clone(), round: 0 }
}

/// What this node found out itself. Blocks.
fn own(store: &Store, layer: &Digest, size: u64) -> Option<Result<IndexClaim, NoClaim>> {
    match store.index(layer) {
        Ok(Some(IndexFact::Built { claim, .. })) => {
            let signed = SignedIndexClaim::from_bytes(*layer, size, &claim)?;
            signed.check().ok()?;
            Some(Ok(signed.claim))
        }
        Ok(Some(IndexFact::Declined { reason })) => Some(Err(NoClaim::Declined(reason))),
        Ok(None) => None,
        Err(error) => {
            warn!(%layer, %error, "cannot read which index the layer has");
            None
        }
    }
}

/// A claim that the node at the other end of the link makes itself: only of that node it is certain that it is a
/// member.
fn checked(from: NodeId, layer: &SwarmId, bytes: &[u8]) -> Option<IndexClaim> {
    let signed = SignedIndexClaim::from_bytes(layer.digest, layer.size, bytes)?;
    if let Err(error) = signed.check() {
        warn!(peer = %from, layer = %layer.digest, %error, "a claim about an index does not hold");
        return None;
    }
    (signed.claim.signer == from).then_some(signed.claim)
}

#[cfg(test)]
mod tests {
    use shoal_proto::Keypair;

    use super::*;

    fn layer() -> SwarmId {
        let origin = "registry.test".parse().unwrap();
        SwarmId { digest: Digest::sha256([1; 32]), size: 5, origin, round: 0 }
    }

    fn claim(index: u8, signer: NodeId) -> IndexClaim {
        IndexClaim {
            layer: layer().digest,
            size: 5,
            index: [index; 32],
            file: Digest::sha256([3; 32]),
            file_len: 9,
            diff_id: Digest::sha256([4; 32]),
            signer,
        }
    }

    #[test]
    fn only_what_the_asked_node_signed_itself_counts() {
        let key = Keypair::ed25519_from_bytes([3; 32]).unwrap();
        let signer = NodeId::of(&key.public()).unwrap();
        let claim = claim(3, signer);
        let bytes = claim.clone().sign(&key).unwrap().to_bytes();
        assert_eq!(checked(signer, &layer(), &bytes), Some(claim));
        assert_eq!(checked(NodeId::from_bytes([9; 32]), &layer(), &bytes), None);
        let of_another_size = SwarmId { size: 6, ..layer() };
        assert_eq!(checked(signer, &of_another_size, &bytes), None);
    }

    #[test]
    fn who_stands_by_a_revoked_index_is_not_believed_about_others() {
        let (liar, other) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let mut revoked = Revoked::default();
        assert!(revoked.allows(&claim(3, liar)) && revoked.allows(&claim(4, liar)));
        revoked.indexes.insert([3; 32]);
        assert!(!revoked.allows(&claim(3, liar)));
        assert!(!revoked.allows(&claim(4, liar)));
        assert!(revoked.allows(&claim(4, other)));
    }
}
