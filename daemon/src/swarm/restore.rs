//! What the store holds, told to the swarm: at the start, and when it loses something.

use shoal_proto::message::{Held, Proof};
use shoal_proto::{Digest, SignedAttestation};
use shoal_store::{BlobName, Loss, ReadError, Store};
use tokio::sync::broadcast::error::RecvError;
use tracing::{info, warn};

use super::{Input, Restored, SwarmHandle};
use crate::images::is_open;

/// What a complete blob can be served with: its chunks, and its attested map. `None` where it has no
/// attestation that can be read.
pub(crate) fn complete_proof(store: &Store, digest: &Digest) -> Result<Option<(Held, Proof)>, ReadError> {
    let Some(complete) = store.complete(digest) else { return Ok(None) };
    let stored = store.attestation(digest).unwrap_or_else(|error| {
        warn!(%digest, %error, "cannot read the attestation");
        None
    });
    let Some(attestation) = stored.and_then(|bytes| SignedAttestation::from_bytes(&bytes).ok()) else {
        return Ok(None);
    };
    let values = store.map(digest)?.values().to_vec();
    let held = if complete.held.is_full() { Held::Complete } else { Held::Some(complete.held) };
    Ok(Some((held, Proof::Map { values, attestation: Box::new(attestation) })))
}

/// Tells the swarm of every complete blob. Blocks while it reads the store.
fn restored(store: &Store) -> Vec<Restored> {
    let complete = store.list().into_iter().filter_map(|blob| match blob.name {
        BlobName::Complete(digest) => Some(digest),
        BlobName::Partial(_) => None,
    });
    let restored = complete.filter_map(|digest| {
        let swarm = store.complete(&digest)?.swarm;
        match complete_proof(store, &digest) {
            Ok(Some((held, proof))) => {
                let open = is_open(store, &swarm);
                Some(Restored { swarm, held, proof, open })
            }
            Ok(None) => None,
            Err(error) => {
                warn!(%digest, %error, "cannot serve a cached blob");
                None
            }
        }
    });
    restored.collect()
}

/// Offers what is cached to the swarm.
pub(crate) async fn restore(store: Store, swarm: SwarmHandle) {
    let Ok(restored) = tokio::task::spawn_blocking(move || restored(&store)).await else { return };
    info!(blobs = restored.len(), "cached blobs are offered to the swarm");
    swarm.send(Input::Restore(restored)).await;
}

/// Passes on what the store loses, for as long as the node runs.
pub(crate) async fn watch_losses(store: Store, swarm: SwarmHandle) {
    let mut losses = store.losses();
    loop {
        let loss = match losses.recv().await {
            Ok(loss) => loss,
            // Neighbours that ask for what was missed get NOT_HELD.
            Err(RecvError::Lagged(missed)) => {
                warn!(missed, "losses of the store were not told to the swarm");
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        match loss {
            Loss::Evicted(BlobName::Complete(digest)) => {
                swarm.send(Input::LostComplete { digest, chunks: None }).await;
            }
            Loss::Chunks { blob: BlobName::Complete(digest), chunks } => {
                swarm.send(Input::LostComplete { digest, chunks: Some(chunks) }).await;
            }
            Loss::Chunks { blob: BlobName::Partial(name), chunks } => {
                swarm.send(Input::Lost { swarm: *name, chunks }).await;
            }
            // Partial blobs are evicted only when nobody fetches them.
            Loss::Evicted(BlobName::Partial(_)) => {}
        }
    }
}
