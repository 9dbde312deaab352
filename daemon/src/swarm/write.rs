//! Checks a chunk and writes it, off the runtime's threads.

use shoal_proto::{ChunkValue, Digest, Mismatch, SwarmId, VerifiedChunk};
use shoal_store::StoreError;

use super::driver::DriverParts;

/// Into which blob of the store.
#[derive(Clone, Debug)]
pub(crate) enum WriteTo {
    /// One that is being fetched.
    Partial(SwarmId),
    /// One that was complete and lost chunks.
    Repair(Digest),
}

/// Why a chunk was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Runs `check` and writes what it verified; gives the chunk's value. `None`: the node is stopping.
pub(super) async fn write(
    parts: &DriverParts,
    to: WriteTo,
    evidence: Vec<u8>,
    check: impl FnOnce() -> Result<VerifiedChunk, Mismatch> + Send + 'static,
) -> Option<Result<ChunkValue, WriteError>> {
    let store = parts.store.clone();
    let work = move || {
        let chunk = check()?;
        let value = chunk.value;
        match to {
            WriteTo::Partial(swarm) => store.write_chunk(&swarm, chunk, &evidence)?,
            WriteTo::Repair(digest) => store.repair(&digest, chunk)?,
        }
        Ok(value)
    };
    tokio::task::spawn_blocking(work).await.ok()
}
