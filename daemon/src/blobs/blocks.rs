//! Reading verified bytes off the runtime's threads, with bounded memory.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use shoal_proto::BLOCK_SIZE;
use shoal_store::{READ_BLOCKS, ReadError, Reader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that readers may hold beyond one block each. With many readers each goes block by block; with few,
/// each reads far enough ahead that disk, hash and socket overlap.
#[derive(Clone, Debug)]
pub(crate) struct BlockBudget {
    ahead: Arc<Semaphore>,
}

/// Bytes that were read, and the share of the budget that they hold.
#[derive(Debug)]
pub(crate) struct Piece {
    pub bytes: Bytes,
    _ahead: Option<OwnedSemaphorePermit>,
}

impl BlockBudget {
    /// A budget of so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        let batches = bytes / (BLOCK_SIZE * READ_BLOCKS as u64);
        Self { ahead: Arc::new(Semaphore::new(usize::try_from(batches).unwrap_or(1).max(1))) }
    }

    /// Reads the first bytes of `range`: up to [`READ_BLOCKS`] blocks while there is budget, else up to one.
    /// The reader comes back with the answer.
    pub(crate) async fn read(
        &self,
        reader: Reader,
        range: Range<u64>,
    ) -> (Option<Reader>, Result<Piece, ReadFault>) {
        let ahead = self.ahead.clone().try_acquire_owned().ok();
        let range = if ahead.is_some() { range } else { first_block(range) };
        let read = tokio::task::spawn_blocking(move || {
            let mut reader = reader;
            let bytes = reader.read(range);
            (reader, bytes)
        });
        match read.await {
            Ok((reader, Ok(bytes))) => (Some(reader), Ok(Piece { bytes: bytes.into_inner(), _ahead: ahead })),
            Ok((reader, Err(error))) => (Some(reader), Err(ReadFault::Read(error))),
            Err(_) => (None, Err(ReadFault::Stopping)),
        }
    }
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadFault {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the node is stopping")]
    Stopping,
}

/// Up to the next block boundary.
fn first_block(range: Range<u64>) -> Range<u64> {
    let boundary = (range.start / BLOCK_SIZE + 1) * BLOCK_SIZE;
    range.start..range.end.min(boundary)
}
