//! Why the store cannot do something.

use std::io;
use std::path::PathBuf;

use shoal_proto::{ChunkIndex, Digest, LayoutError, SwarmId};

use crate::rows::RowsError;

/// Why a folder cannot be used as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{} is in use by another daemon: give each its own data folder", .dir.display())]
    InUse { dir: PathBuf },
    #[error("cannot use {} as data folder", .dir.display())]
    Folder { dir: PathBuf, source: io::Error },
    #[error("cannot use the index in {}", .dir.display())]
    Index { dir: PathBuf, source: RowsError },
}

/// A blob as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum BlobName {
    /// Its digest matched.
    Complete(Digest),
    Partial(Box<SwarmId>),
}

impl std::fmt::Display for BlobName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Complete(digest) => digest.fmt(f),
            Self::Partial(swarm) => swarm.fmt(f),
        }
    }
}

/// Why a write, or a change of what is kept, did not happen. The store goes on serving.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0} is not in the store")]
    NotFound(BlobName),
    #[error("{0} is complete already")]
    AlreadyComplete(Digest),
    #[error("no room for {need} bytes: the disk or the store's capacity is full, and nothing may be evicted")]
    Full { need: u64 },
    #[error("chunk {index} of {blob} is held or known with another value")]
    Conflict { blob: BlobName, index: ChunkIndex },
    #[error("chunk {index} was verified for a blob of another size than {blob}")]
    OtherLayout { blob: BlobName, index: ChunkIndex },
    #[error("evidence of {got} bytes is longer than {max}")]
    EvidenceTooLong { got: usize, max: usize },
    #[error(transparent)]
    TooLarge(#[from] LayoutError),
    #[error("cannot {operation} the file of {blob}")]
    File { operation: &'static str, blob: BlobName, source: io::Error },
    #[error("cannot make the names of blob files durable")]
    Names(#[source] io::Error),
    #[error(transparent)]
    Rows(RowsError),
}

impl From<RowsError> for StoreError {
    fn from(error: RowsError) -> Self {
        if error.is_full() { Self::Full { need: 0 } } else { Self::Rows(error) }
    }
}

/// Why bytes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("chunk {index} of {blob} is not here")]
    Missing { blob: BlobName, index: ChunkIndex },
    /// What lay on the disk did not match; the store has forgotten the chunk.
    #[error("chunk {index} of {blob} is corrupt on disk")]
    Corrupt { blob: BlobName, index: ChunkIndex },
    #[error("no byte {offset} in {blob}")]
    PastEnd { blob: BlobName, offset: u64 },
    #[error("cannot read the file of {blob}")]
    File { blob: BlobName, source: io::Error },
    #[error(transparent)]
    Rows(#[from] RowsError),
}

/// Why a blob did not become complete.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    #[error("{swarm} lacks {missing} chunks")]
    Missing { swarm: Box<SwarmId>, missing: u32 },
    /// Every chunk matched its value and the digest does not match: somebody signed for wrong bytes.
    #[error("the content of {swarm} has the digest {got}")]
    DigestMismatch { swarm: Box<SwarmId>, got: Digest },
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] StoreError),
}
