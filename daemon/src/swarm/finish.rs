//! What happens once all chunks of a blob are here: its digest decides.

use shoal_proto::{Attestation, ChunkIndex, ChunkMap, ChunkSet, SignedAttestation, SwarmId};
use shoal_store::{FinishError, ReadError};
use tracing::{info, warn};

use super::Input;
use super::driver::DriverParts;
use crate::images::is_open;

/// Completes the digest and tells the driver how it came out.
pub(super) async fn finish(parts: DriverParts, swarm: SwarmId) {
    let (store, name) = (parts.store.clone(), swarm.clone());
    let (key, me) = (parts.key.clone(), parts.me);
    let work = move || {
        let mut signed = None;
        let attest = |map: &ChunkMap| {
            let attestation = Attestation { swarm: name.clone(), root: map.root(), signer: me };
            signed = attestation.sign(&key).ok();
            signed.as_ref().map(SignedAttestation::to_bytes).unwrap_or_default()
        };
        let finished = store.finish(&name, attest);
        finished.map(|_| signed.map(|signed| (signed, is_open(&store, &name))))
    };
    let input = match tokio::task::spawn_blocking(work).await {
        Ok(Ok(Some((signed, open)))) => {
            info!(digest = %swarm.digest, size = swarm.size, "blob complete");
            parts.metrics.blobs_completed.inc();
            parts.indexer.is_whole(&swarm);
            Input::Verified { signed, open }
        }
        Ok(Ok(None)) => Input::StoreFailed { swarm, reason: "this node's key cannot sign".into() },
        Ok(Err(FinishError::DigestMismatch { got, .. })) => {
            warn!(digest = %swarm.digest, %got, origin = %swarm.origin, "the blob has another digest");
            parts.metrics.digest_mismatches.inc();
            Input::DigestMismatch(swarm)
        }
        // The disk changed under the hash; what it lost is fetched again.
        Ok(Err(FinishError::Read(ReadError::Corrupt { index, .. }))) => {
            Input::Lost { swarm, chunks: vec![index] }
        }
        Ok(Err(FinishError::Missing { .. } | FinishError::Read(ReadError::Missing { .. }))) => {
            let (store, name) = (parts.store.clone(), swarm.clone());
            let missing = move || store.begin(&name).map(|partial| missing(&partial.held()));
            match tokio::task::spawn_blocking(missing).await {
                Ok(Ok(chunks)) => Input::Lost { swarm, chunks },
                Ok(Err(error)) => Input::StoreFailed { swarm, reason: error.to_string().into() },
                Err(_) => return,
            }
        }
        Ok(Err(error)) => Input::StoreFailed { swarm, reason: error.to_string().into() },
        // The node is stopping.
        Err(_) => return,
    };
    parts.handle.send(input).await;
}

fn missing(held: &ChunkSet) -> Vec<ChunkIndex> {
    held.missing_from(ChunkIndex(0)).collect()
}
