//! Checks a chunk and writes it, off the runtime's threads.

use shoal_proto::{Digest, EntryError, Mismatch, SwarmId, VerifiedChunk};
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
    Sign(#[from] EntryError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A chunk to write.
pub(super) struct Checked<T> {
    pub chunk: VerifiedChunk,
    /// What vouches for its value, kept with it; empty where an attested map does.
    pub evidence: Vec<u8>,
    /// What the caller wants back once it is written.
    pub then: T,
}

/// Runs `check` and writes what it verified, all in one go: a chunk that waits between two threads leaves the
/// processor's cache. `None`: the node is stopping.
pub(super) async fn write<T: Send + 'static>(
    parts: &DriverParts,
    to: WriteTo,
    check: impl FnOnce() -> Result<Checked<T>, WriteError> + Send + 'static,
) -> Option<Result<T, WriteError>> {
    let store = parts.store.clone();
    let work = move || {
        let Checked { chunk, evidence, then } = check()?;
        match to {
            WriteTo::Partial(swarm) => store.write_chunk(&swarm, chunk, &evidence)?,
            WriteTo::Repair(digest) => store.repair(&digest, chunk)?,
        }
        Ok(then)
    };
    tokio::task::spawn_blocking(work).await.ok()
}
