//! Writing chunks.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use shoal_proto::{ChunkIndex, ChunkValue, Digest, SwarmId, VerifiedChunk};

use crate::blob::{Blob, Pending, accounted, lock};
use crate::flush::{FLUSH_BYTES, ROWS_WITHIN};
use crate::store::Inner;
use crate::{Store, StoreError, blob_rows, disk};

/// The longest evidence that a chunk may come with, in bytes; a signed entry takes about 200.
pub const MAX_EVIDENCE: usize = 4096;

impl Store {
    /// Writes a chunk of a blob that was begun. It can be read at once, and is durable within about a second,
    /// or after [`Self::flush`]. `evidence` is kept with it and comes back from
    /// [`Partial::chunks`](crate::Partial::chunks). A chunk that is held already is left as it is.
    pub fn write_chunk(
        &self,
        swarm: &SwarmId,
        chunk: VerifiedChunk,
        evidence: &[u8],
    ) -> Result<(), StoreError> {
        if evidence.len() > MAX_EVIDENCE {
            return Err(StoreError::EvidenceTooLong { got: evidence.len(), max: MAX_EVIDENCE });
        }
        let usage = self.handle.inner.use_partial(swarm)?;
        self.handle.inner.write(&usage.blob, chunk, evidence, None)
    }

    /// Writes a chunk of a complete blob that was found corrupt. Only the value that the blob had when its digest
    /// matched is accepted.
    pub fn repair(&self, digest: &Digest, chunk: VerifiedChunk) -> Result<(), StoreError> {
        let inner = &self.handle.inner;
        let usage = inner.use_complete(digest)?;
        let blob = &usage.blob;
        let known = inner.value(blob, chunk.index)?;
        inner.write(blob, chunk, &[], Some(known))
    }
}

impl Inner {
    /// `only`: where the blob's values are known, the one that this chunk must have.
    fn write(
        &self,
        blob: &Arc<Blob>,
        chunk: VerifiedChunk,
        evidence: &[u8],
        only: Option<Option<ChunkValue>>,
    ) -> Result<(), StoreError> {
        let index = chunk.index;
        let len = blob.layout.len_of(index);
        // The caller chose the layout that the chunk was checked with.
        if chunk.bytes.get().len() as u64 != len
            || len == 0
            || chunk.blocks.merge(&blob.layout, index) != chunk.value
        {
            return Err(StoreError::OtherLayout { blob: blob.name(), index });
        }
        if only.is_some_and(|only| only != Some(chunk.value)) {
            return Err(StoreError::Conflict { blob: blob.name(), index });
        }
        let _writing = lock(&blob.write);
        if self.is_held(blob, index, chunk.value)? {
            return Ok(());
        }
        let bytes = accounted(len);
        self.admit(bytes)?;
        match self.write_bytes(blob, &chunk) {
            Ok(file) => self.hold(blob, chunk, evidence, file),
            Err(error) => {
                lock(&self.table).used -= bytes;
                return Err(error);
            }
        }
        let unsynced = self.unsynced_bytes.fetch_add(len, Ordering::Relaxed) + len;
        // The kernel holds back whoever writes faster than the disk for long.
        let enough = unsynced >= FLUSH_BYTES;
        self.flush_later(if enough { Duration::ZERO } else { ROWS_WITHIN });
        Ok(())
    }

    /// Whether the chunk is held with this value; an error where it is held with another.
    fn is_held(&self, blob: &Blob, index: ChunkIndex, value: ChunkValue) -> Result<bool, StoreError> {
        let pending = {
            let state = lock(&blob.state);
            if state.removed {
                return Err(StoreError::NotFound(crate::BlobName::Partial(blob.swarm.clone().into())));
            }
            if !state.held.contains(index) {
                return Ok(false);
            }
            state.pending.get(&index.0).map(|chunk| chunk.value)
        };
        let held = match pending {
            Some(value) => Some(value),
            None => self.value(blob, index)?,
        };
        if held == Some(value) { Ok(true) } else { Err(StoreError::Conflict { blob: blob.name(), index }) }
    }

    /// The value of a chunk that is held, or that a complete blob had.
    fn value(&self, blob: &Blob, index: ChunkIndex) -> Result<Option<ChunkValue>, StoreError> {
        if let Some(chunk) = lock(&blob.state).pending.get(&index.0) {
            return Ok(Some(chunk.value));
        }
        Ok(self.rows.read("read a chunk's value", |rows| blob_rows::value(rows, blob.id, index))?)
    }

    fn write_bytes(&self, blob: &Blob, chunk: &VerifiedChunk) -> Result<Arc<File>, StoreError> {
        let offset = blob.layout.range(chunk.index).start;
        let bytes = chunk.bytes.get();
        let fail = |operation| {
            move |source| {
                if disk::is_full(&source) {
                    return StoreError::Full { need: bytes.len() as u64 };
                }
                StoreError::File { operation, blob: blob.name(), source }
            }
        };
        let file = blob.file(&self.disk).map_err(fail("open"))?;
        let mut written = self.disk.write_at(blob.id, &file, bytes, offset);
        if written.as_ref().is_err_and(disk::is_full) {
            self.evict(&mut lock(&self.table), bytes.len() as u64);
            self.wait_for_open_files();
            written = self.disk.write_at(blob.id, &file, bytes, offset);
        }
        written.map_err(fail("write"))?;
        Ok(file)
    }

    /// Makes a written chunk readable and queues it for the flush and the content digest.
    fn hold(&self, blob: &Arc<Blob>, chunk: VerifiedChunk, evidence: &[u8], file: Arc<File>) {
        let index = chunk.index;
        let recent = self.keep_for_hashing(blob, index, chunk.bytes.into_inner());
        let mut state = lock(&blob.state);
        state.held.insert(index);
        state.bytes += accounted(blob.layout.len_of(index));
        let pending =
            Pending { value: chunk.value, blocks: Arc::new(chunk.blocks), evidence: evidence.into() };
        state.pending.insert(index.0, pending);
        state.unsynced = Some(file);
        if let Some(recent) = recent {
            state.recent.insert(index.0, recent);
        }
        drop(state);
        lock(&self.table).dirty.insert(blob.id);
        self.hash_later(blob);
    }
}
