//! How a blob is cut.

use std::fmt;
use std::ops::Range;

const MIB: u64 = 1 << 20;
/// The smallest size of chunks, in bytes: 512 KiB. It is what a node needs of a blob before it can pass anything on: with a
/// MiB the last of sixteen nodes at 50 Mbit/s had its first byte 0.7 s later, and 40 layers of a few MiB took 7 % longer.
/// Who changes how blobs are cut changes the names of the store's tables and of the protocol between nodes too.
pub const MIN_CHUNK: u64 = MIB / 2;
/// Blobs up to this size, nearly all layers, have chunks of the smallest size. Each chunk costs messages and a signature, so
/// those of larger ones are larger.
const SMALL_BLOB: u64 = 128 * MIB;
const MAX_CHUNK: u64 = 16 * MIB;
/// A blob is cut into about this many chunks, as long as the chunk size stays within its bounds.
const CHUNKS_PER_BLOB: u64 = 1024;

/// The largest blob that Shoal handles, in bytes: 1 TiB, 65,536 chunks. Bounds every chunk set and map
/// that a peer can make us hold.
pub const MAX_BLOB_SIZE: u64 = 1 << 40;

/// The unit in which a chunk is read from disk and checked again, in bytes. Small, so that a thousand
/// readers cost little memory; large enough that BLAKE3 runs at full speed. Divides every chunk size.
pub const BLOCK_SIZE: u64 = 128 << 10;

/// Which chunk of a blob, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkIndex(pub u32);

impl ChunkIndex {
    /// The index as a position in a vector.
    pub fn slot(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ChunkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// Where the chunks of a blob lie: a pure function of the blob's size, so that nobody negotiates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkLayout {
    size: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a blob of {0} bytes is larger than {MAX_BLOB_SIZE} bytes, the most that is handled")]
pub struct LayoutError(pub u64);

impl ChunkLayout {
    pub fn new(size: u64) -> Result<Self, LayoutError> {
        if size > MAX_BLOB_SIZE { Err(LayoutError(size)) } else { Ok(Self { size }) }
    }

    /// The blob's size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The size of every chunk but the last, in bytes: a power of two from 512 KiB to 16 MiB.
    pub fn chunk_size(&self) -> u64 {
        if self.size <= SMALL_BLOB {
            return MIN_CHUNK;
        }
        self.size.div_ceil(CHUNKS_PER_BLOB).next_power_of_two().clamp(MIB, MAX_CHUNK)
    }

    /// How many chunks there are; 0 for an empty blob.
    pub fn count(&self) -> u32 {
        // MAX_BLOB_SIZE / MAX_CHUNK is 65,536, so the conversion cannot fail.
        u32::try_from(self.size.div_ceil(self.chunk_size())).unwrap_or(u32::MAX)
    }

    pub fn contains(&self, index: ChunkIndex) -> bool {
        index.0 < self.count()
    }

    pub fn indexes(&self) -> impl DoubleEndedIterator<Item = ChunkIndex> + use<> {
        (0..self.count()).map(ChunkIndex)
    }

    /// The bytes of the blob that this chunk covers; empty past the end.
    pub fn range(&self, index: ChunkIndex) -> Range<u64> {
        let start = (u64::from(index.0) * self.chunk_size()).min(self.size);
        start..(start + self.chunk_size()).min(self.size)
    }

    /// Length of this chunk in bytes.
    pub fn len_of(&self, index: ChunkIndex) -> u64 {
        let range = self.range(index);
        range.end - range.start
    }

    /// The chunk that holds this byte; past the end, the number of chunks.
    pub fn chunk_at(&self, offset: u64) -> ChunkIndex {
        let index = u32::try_from(offset / self.chunk_size()).unwrap_or(u32::MAX);
        ChunkIndex(index.min(self.count()))
    }

    /// The chunks that overlap this range of bytes.
    pub fn chunks_of(&self, bytes: &Range<u64>) -> Range<u32> {
        let end = bytes.end.min(self.size);
        if bytes.start >= end {
            return 0..0;
        }
        self.chunk_at(bytes.start).0..self.chunk_at(end - 1).0 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_size_follows_the_blob_and_is_bounded() {
        let gib = 1 << 30;
        for (size, chunk, count) in [
            (0, MIN_CHUNK, 0),
            (1, MIN_CHUNK, 1),
            (MIN_CHUNK, MIN_CHUNK, 1),
            (MIN_CHUNK + 1, MIN_CHUNK, 2),
            (128 * MIB, MIN_CHUNK, 256),
            (128 * MIB + 1, MIB, 129),
            (gib, MIB, 1024),
            (gib + 1, 2 * MIB, 513),
            (2 * gib, 2 * MIB, 1024),
            (100 * gib, 16 * MIB, 6400),
            (MAX_BLOB_SIZE, 16 * MIB, 65_536),
        ] {
            let layout = ChunkLayout::new(size).unwrap();
            assert_eq!((layout.chunk_size(), layout.count()), (chunk, count), "size {size}");
            let total: u64 = layout.indexes().map(|i| layout.len_of(i)).sum();
            assert_eq!(total, size);
        }
        assert!(ChunkLayout::new(MAX_BLOB_SIZE + 1).is_err());
    }

    #[test]
    fn ranges_of_bytes_name_their_chunks() {
        let size = 3 * MIN_CHUNK + 5;
        let layout = ChunkLayout::new(size).unwrap();
        assert_eq!(layout.chunks_of(&(0..1)), 0..1);
        assert_eq!(layout.chunks_of(&(MIN_CHUNK - 1..MIN_CHUNK + 1)), 0..2);
        assert_eq!(layout.chunks_of(&(0..u64::MAX)), 0..4);
        assert_eq!(layout.chunks_of(&(size..u64::MAX)), 0..0);
        assert_eq!(layout.range(ChunkIndex(u32::MAX)), size..size);
    }
}
