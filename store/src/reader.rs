//! Reads: what comes from disk is checked, block by block, before anybody sees it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rustix::io::Errno;
use shoal_proto::{
    BLOCK_SIZE, BlockValues, ChunkIndex, ChunkLayout, ChunkSet, Digest, FillError, SwarmId, Verified,
};

use crate::blob::{Blob, lock};
use crate::store::Inner;
use crate::table::InUse;
use crate::{BlobName, ReadError, Store, StoreError, blob_rows};

/// Blocks that one read returns at most: 512 KiB. Longer reads are not faster, and a reader holds what it read.
pub const READ_BLOCKS: usize = 4;

/// An open blob. While this lives, the blob is not evicted; a partial one can become complete meanwhile.
#[derive(Debug)]
pub struct Reader {
    usage: InUse,
    blocks: BlockReader,
}

impl Store {
    /// Opens a complete blob.
    pub fn reader(&self, digest: &Digest) -> Result<Reader, ReadError> {
        let missing = |_| ReadError::Missing { blob: BlobName::Complete(*digest), index: ChunkIndex(0) };
        Reader::open(self.handle.inner.use_complete(digest).map_err(missing)?)
    }

    /// Opens a complete blob without this counting as a use: it stays no longer for that.
    pub fn look_at(&self, digest: &Digest) -> Result<Reader, ReadError> {
        let missing = |_| ReadError::Missing { blob: BlobName::Complete(*digest), index: ChunkIndex(0) };
        Reader::open(self.handle.inner.look_at_complete(digest).map_err(missing)?)
    }

    /// Opens a partial blob, whose chunks can be read as they come.
    pub fn partial_reader(&self, swarm: &SwarmId) -> Result<Reader, ReadError> {
        let missing = |_: StoreError| ReadError::Missing {
            blob: BlobName::Partial(swarm.clone().into()),
            index: ChunkIndex(0),
        };
        Reader::open(self.handle.inner.use_partial(swarm).map_err(missing)?)
    }
}

impl Reader {
    fn open(usage: InUse) -> Result<Self, ReadError> {
        let blocks = BlockReader::open(&usage.store, usage.blob.clone())?;
        Ok(Self { usage, blocks })
    }

    pub fn layout(&self) -> &ChunkLayout {
        &self.usage.blob.layout
    }

    /// The chunks that can be read.
    pub fn held(&self) -> ChunkSet {
        lock(&self.usage.blob.state).held.clone()
    }

    /// Whether this chunk can be read.
    pub fn holds(&self, index: ChunkIndex) -> bool {
        lock(&self.usage.blob.state).held.contains(index)
    }

    /// One block of a chunk: [`BLOCK_SIZE`] bytes, or what the chunk's end leaves.
    pub fn read_block(&mut self, index: ChunkIndex, block: usize) -> Result<Verified<Bytes>, ReadError> {
        self.blocks.read(&self.usage.store, index, block, 1)
    }

    /// The first bytes of this range: as many as lie in one chunk and in [`READ_BLOCKS`] blocks, at least one.
    pub fn read(&mut self, range: Range<u64>) -> Result<Verified<Bytes>, ReadError> {
        let layout = self.usage.blob.layout;
        let index = layout.chunk_at(range.start);
        let chunk = layout.range(index);
        let end = range.end.min(chunk.end);
        if range.start >= end {
            return Err(ReadError::PastEnd { blob: self.usage.blob.name(), offset: range.start });
        }
        let within = range.start - chunk.start;
        let (first, skip) = (to_usize(within / BLOCK_SIZE), to_usize(within % BLOCK_SIZE));
        let count = (end - chunk.start).div_ceil(BLOCK_SIZE) - within / BLOCK_SIZE;
        let blocks = self.blocks.read(&self.usage.store, index, first, to_usize(count).min(READ_BLOCKS))?;
        Ok(blocks.slice(skip..skip.saturating_add(to_usize(end - range.start))))
    }
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Reads checked blocks; remembers the block values of the chunk that it is in.
#[derive(Debug)]
pub(crate) struct BlockReader {
    blob: Arc<Blob>,
    file: Arc<File>,
    known: Option<Known>,
}

#[derive(Clone, Debug)]
struct Known {
    index: ChunkIndex,
    /// [`State::forgets`](crate::blob::State) when they were read.
    forgets: u64,
    blocks: Arc<BlockValues>,
}

impl BlockReader {
    pub(crate) fn open(store: &Inner, blob: Arc<Blob>) -> Result<Self, ReadError> {
        let file = blob.file(&store.disk).map_err(|source| ReadError::File { blob: blob.name(), source })?;
        Ok(Self { blob, file, known: None })
    }

    /// Up to `count` blocks of a chunk from block `first` on, at most to its end.
    pub(crate) fn read(
        &mut self,
        store: &Inner,
        index: ChunkIndex,
        first: usize,
        count: usize,
    ) -> Result<Verified<Bytes>, ReadError> {
        let known = self.known(store, index)?;
        let chunk = self.blob.layout.range(index);
        let start = chunk.start.saturating_add((first as u64).saturating_mul(BLOCK_SIZE));
        let end = start.saturating_add((count as u64).saturating_mul(BLOCK_SIZE)).min(chunk.end);
        if start >= end {
            return Err(ReadError::PastEnd { blob: self.blob.name(), offset: start });
        }
        let buffer = store.buffers.take(to_usize(end - start));
        let read = |offset, part: &mut [u8]| read_at(&self.file, offset, part);
        let filled = Verified::fill(&self.blob.layout, index, &known.blocks, first, buffer, read);
        filled.map_err(|error| match error {
            // A sector that cannot be read any more, or a file that ends early, is as lost as what changed.
            FillError::Mismatch(_) | FillError::Read(Errno::IO) => self.corrupt(store, index, known.forgets),
            FillError::Read(error) => {
                ReadError::File { blob: self.blob.name(), source: io::Error::from(error) }
            }
        })
    }

    /// The block values of a chunk that is held.
    fn known(&mut self, store: &Inner, index: ChunkIndex) -> Result<Known, ReadError> {
        let (forgets, pending) = {
            let state = lock(&self.blob.state);
            if !state.held.contains(index) {
                drop(state);
                return Err(ReadError::Missing { blob: self.blob.name(), index });
            }
            (state.forgets, state.pending.get(&index.0).map(|chunk| chunk.blocks.clone()))
        };
        if let Some(known) =
            self.known.as_ref().filter(|known| (known.index, known.forgets) == (index, forgets))
        {
            return Ok(known.clone());
        }
        let blocks = match pending {
            Some(blocks) => blocks,
            None => self
                .load(store, index)
                .and_then(|found| found.ok_or_else(|| self.corrupt(store, index, forgets)))?,
        };
        let known = Known { index, forgets, blocks };
        self.known = Some(known.clone());
        Ok(known)
    }

    /// The block values from the index, as far as they make the chunk's value.
    fn load(&self, store: &Inner, index: ChunkIndex) -> Result<Option<Arc<BlockValues>>, ReadError> {
        let (id, layout) = (self.blob.id, &self.blob.layout);
        let found =
            store.rows.read("read block values", |rows| blob_rows::blocks(rows, id, layout, index))?;
        Ok(found
            .filter(|(value, blocks)| blocks.merge(layout, index) == *value)
            .map(|(_, blocks)| Arc::new(blocks)))
    }

    fn corrupt(&self, store: &Inner, index: ChunkIndex, forgets: u64) -> ReadError {
        store.forget(&self.blob, index, forgets);
        ReadError::Corrupt { blob: self.blob.name(), index }
    }
}

/// Fills `part`; [`Errno::IO`] where the file ends before.
fn read_at(file: &File, offset: u64, part: &mut [u8]) -> Result<(), Errno> {
    let mut done = 0;
    while let Some(rest) = part.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(file, rest, offset + done as u64) {
            Ok(0) => return Err(Errno::IO),
            Ok(read) => done += read,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
