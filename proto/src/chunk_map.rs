//! What each chunk of a blob must hash to, and the only way to get verified bytes.
//!
//! Values are BLAKE3 chaining values of subtrees (crate `blake3`, module `hazmat`). Chunks and blocks are
//! powers of two in size and aligned, so each is a whole subtree of the blob's tree, and the values
//! of all chunks merge into the plain BLAKE3 of the blob. A blob of one chunk has the root itself as
//! its only value; an empty blob has no values.

use std::ops::Range;

use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;

use crate::{BLOCK_SIZE, ChunkIndex, ChunkLayout};

// 128 KiB fits every usize that Rust's standard library supports.
#[allow(clippy::cast_possible_truncation)]
const BLOCK_LEN: usize = BLOCK_SIZE as usize;

/// The BLAKE3 chaining value of a chunk, or the root where the blob has one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkValue(pub [u8; 32]);

/// The values of a chunk's blocks ([`BLOCK_SIZE`] bytes each, the last one shorter), in order. They
/// merge into the chunk's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockValues(Vec<[u8; 32]>);

impl BlockValues {
    /// 32 bytes for each block.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.concat()
    }

    /// Reads what [`Self::to_bytes`] wrote; `None` unless there are as many as the chunk has blocks.
    /// Only as trustworthy as where it comes from: compare [`Self::merge`] with the chunk's value.
    pub fn from_bytes(layout: &ChunkLayout, index: ChunkIndex, bytes: &[u8]) -> Option<Self> {
        let (values, rest) = bytes.as_chunks::<32>();
        let fits = rest.is_empty() && values.len() as u64 == layout.len_of(index).div_ceil(BLOCK_SIZE);
        fits.then(|| Self(values.to_vec()))
    }

    pub fn get(&self, block: usize) -> Option<&[u8; 32]> {
        self.0.get(block)
    }

    /// The chunk's value that these blocks make.
    pub fn merge(&self, layout: &ChunkLayout, index: ChunkIndex) -> ChunkValue {
        let is_root = layout.count() == 1;
        ChunkValue(merge(&self.0, layout.len_of(index), BLOCK_SIZE, is_root))
    }
}

/// Merges the values of consecutive aligned parts of `part` bytes that cover `len` bytes.
fn merge(values: &[[u8; 32]], len: u64, part: u64, is_root: bool) -> [u8; 32] {
    match values {
        [] => *blake3::hash(b"").as_bytes(),
        [one] => *one,
        _ => {
            let left_len = left_subtree_len(len);
            // At most the number of values, which came from a vector.
            let cut = usize::try_from(left_len / part).unwrap_or(values.len()).min(values.len());
            let (left, right) = values.split_at(cut);
            let left = merge(left, left_len, part, false);
            let right = merge(right, len - left_len, part, false);
            if is_root {
                *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
            } else {
                merge_subtrees_non_root(&left, &right, Mode::Hash)
            }
        }
    }
}

/// The range of bytes of a block within the blob.
fn block_range(layout: &ChunkLayout, index: ChunkIndex, block: usize) -> Range<u64> {
    let chunk = layout.range(index);
    let start = chunk.start.saturating_add((block as u64).saturating_mul(BLOCK_SIZE)).min(chunk.end);
    start..(start + BLOCK_SIZE).min(chunk.end)
}

fn hash_block(layout: &ChunkLayout, start: u64, bytes: &[u8]) -> [u8; 32] {
    if bytes.len() as u64 == layout.size() {
        return *blake3::hash(bytes).as_bytes();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(start);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// Hashes a whole chunk: its value and those of its blocks. The caller passes exactly the chunk's bytes;
/// any other length gives values that match no entry.
pub fn hash_chunk(layout: &ChunkLayout, index: ChunkIndex, bytes: &[u8]) -> (ChunkValue, BlockValues) {
    let start = layout.range(index).start;
    let blocks = bytes
        .chunks(BLOCK_LEN)
        .enumerate()
        .map(|(block, part)| hash_block(layout, start + block as u64 * BLOCK_SIZE, part));
    let values = BlockValues(blocks.collect());
    (values.merge(layout, index), values)
}

/// Bytes that passed a check. Only the check constructs it, and only what is wrapped in it is stored,
/// served or announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    pub fn get(&self) -> &T {
        &self.0
    }

    pub fn into_inner(self) -> T {
        self.0
    }
}

impl Verified<Bytes> {
    /// Fills `buffer` with consecutive blocks of a chunk, from block `first` on, and checks each as soon as it is
    /// there, while it is in the processor's cache: what is read from disk to be served is read with this. `read`
    /// fills a part with the bytes from this offset in the blob. The buffer has whole blocks (the chunk's
    /// last one may be shorter than [`BLOCK_SIZE`]), and `values` must merge into the chunk's value.
    pub fn fill<B, E>(
        layout: &ChunkLayout,
        index: ChunkIndex,
        values: &BlockValues,
        first: usize,
        mut buffer: B,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<Self, FillError<E>>
    where
        B: AsRef<[u8]> + AsMut<[u8]> + Send + 'static,
    {
        let mismatch = Mismatch { index, len: buffer.as_ref().len() };
        if buffer.as_ref().is_empty() {
            return Err(FillError::Mismatch(mismatch));
        }
        for (number, part) in buffer.as_mut().chunks_mut(BLOCK_LEN).enumerate() {
            let block = first.saturating_add(number);
            let range = block_range(layout, index, block);
            let whole = part.len() as u64 == range.end - range.start;
            let want = values.get(block).filter(|_| whole).ok_or_else(|| mismatch.clone())?;
            read(range.start, part).map_err(FillError::Read)?;
            if *want != hash_block(layout, range.start, part) {
                return Err(FillError::Mismatch(mismatch));
            }
        }
        Ok(Self(Bytes::from_owner(buffer)))
    }

    /// A part of verified bytes is verified; the range is held within what is there.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let end = range.end.min(self.0.len());
        Self(self.0.slice(range.start.min(end)..end))
    }
}

/// A chunk whose bytes matched its value.
#[derive(Clone, Debug)]
pub struct VerifiedChunk {
    pub index: ChunkIndex,
    pub bytes: Verified<Bytes>,
    pub value: ChunkValue,
    pub blocks: BlockValues,
}

/// The bytes of a chunk are not what its entry says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("chunk {index} of {len} bytes does not match its entry")]
pub struct Mismatch {
    pub index: ChunkIndex,
    pub len: usize,
}

/// Why a buffer was not filled with verified bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FillError<E> {
    #[error("cannot read")]
    Read(#[source] E),
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
}

impl VerifiedChunk {
    /// Checks a chunk that came from a peer or from disk against its value.
    pub fn check(
        layout: &ChunkLayout,
        index: ChunkIndex,
        bytes: Bytes,
        want: ChunkValue,
    ) -> Result<Self, Mismatch> {
        let mismatch = Mismatch { index, len: bytes.len() };
        if bytes.len() as u64 != layout.len_of(index) || bytes.is_empty() {
            return Err(mismatch);
        }
        let (value, blocks) = hash_chunk(layout, index, &bytes);
        if value == want { Ok(Self { index, bytes: Verified(bytes), value, blocks }) } else { Err(mismatch) }
    }

    /// Takes a chunk that this node itself read from the origin under a lease: its value is what the bytes
    /// hash to, and the node signs for it. Refuses a wrong length.
    pub fn from_origin(layout: &ChunkLayout, index: ChunkIndex, bytes: Bytes) -> Result<Self, Mismatch> {
        if bytes.len() as u64 != layout.len_of(index) || bytes.is_empty() {
            return Err(Mismatch { index, len: bytes.len() });
        }
        let (value, blocks) = hash_chunk(layout, index, &bytes);
        Ok(Self { index, bytes: Verified(bytes), value, blocks })
    }
}

/// The value of every chunk of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkMap {
    layout: ChunkLayout,
    values: Vec<ChunkValue>,
}

/// Why values are not a map of this blob.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a map of this blob has {want} values, this has {got}")]
pub struct MapError {
    want: u32,
    got: usize,
}

impl ChunkMap {
    pub fn new(layout: ChunkLayout, values: Vec<ChunkValue>) -> Result<Self, MapError> {
        if values.len() != layout.count() as usize {
            return Err(MapError { want: layout.count(), got: values.len() });
        }
        Ok(Self { layout, values })
    }

    pub fn layout(&self) -> &ChunkLayout {
        &self.layout
    }

    pub fn values(&self) -> &[ChunkValue] {
        &self.values
    }

    pub fn get(&self, index: ChunkIndex) -> Option<ChunkValue> {
        self.values.get(index.slot()).copied()
    }

    /// The plain BLAKE3 hash of the whole blob.
    pub fn root(&self) -> [u8; 32] {
        let values: Vec<[u8; 32]> = self.values.iter().map(|value| value.0).collect();
        merge(&values, self.layout.size(), self.layout.chunk_size(), true)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation)]
    use super::*;

    fn blob(len: usize) -> Bytes {
        let mut rng = fastrand::Rng::with_seed(len as u64);
        (0..len).map(|_| rng.u8(..)).collect()
    }

    fn chunk(bytes: &Bytes, range: Range<u64>) -> Bytes {
        bytes.slice(range.start as usize..range.end as usize)
    }

    #[test]
    fn the_root_of_a_map_is_the_plain_blake3_of_the_blob() {
        let block = BLOCK_SIZE as usize;
        let one = crate::MIN_CHUNK as usize;
        for len in [
            0,
            1,
            1024,
            block - 1,
            block,
            block + 1,
            one - 1,
            one,
            one + 1,
            1 << 20,
            (1 << 20) + 1,
            3 << 20,
            (5 << 20) + 77,
        ] {
            let bytes = blob(len);
            let layout = ChunkLayout::new(len as u64).unwrap();
            let values = layout
                .indexes()
                .map(|index| hash_chunk(&layout, index, &chunk(&bytes, layout.range(index))).0);
            let map = ChunkMap::new(layout, values.collect()).unwrap();
            assert_eq!(&map.root(), blake3::hash(&bytes).as_bytes(), "length {len}");
        }
    }

    #[test]
    fn a_flipped_bit_fails_the_chunk_and_its_block() {
        let bytes = blob((2 << 20) + 300_000);
        let layout = ChunkLayout::new(bytes.len() as u64).unwrap();
        for index in layout.indexes() {
            let good = chunk(&bytes, layout.range(index));
            let (value, blocks) = hash_chunk(&layout, index, &good);
            let mut bad = good.to_vec();
            *bad.last_mut().unwrap() ^= 1;
            let bad = Bytes::from(bad);
            assert!(VerifiedChunk::check(&layout, index, good.clone(), value).is_ok());
            assert!(VerifiedChunk::check(&layout, index, bad.clone(), value).is_err());
            let last = (good.len() - 1) / BLOCK_SIZE as usize;
            let tail = last * BLOCK_SIZE as usize;
            let check = |first, bytes: Bytes| {
                let start = layout.range(index).start + first as u64 * BLOCK_SIZE;
                let read = |at: u64, part: &mut [u8]| {
                    let from = (at - start) as usize;
                    part.copy_from_slice(&bytes[from..from + part.len()]);
                    Ok::<(), ()>(())
                };
                Verified::fill(&layout, index, &blocks, first, vec![0; bytes.len()], read)
            };
            assert_eq!(check(last, good.slice(tail..)).unwrap().get(), &good.slice(tail..));
            assert_eq!(check(0, good.clone()).unwrap().slice(1..5).get(), &good.slice(1..5));
            assert!(check(last, bad.slice(tail..)).is_err());
            assert!(check(0, bad.clone()).is_err());
            assert!(check(last, good.slice(tail + 1..)).is_err(), "a block cut short");
            assert!(check(last + 1, Bytes::new()).is_err());
            assert_eq!(BlockValues::from_bytes(&layout, index, &blocks.to_bytes()).unwrap(), blocks);
        }
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let bytes = blob(1 << 19);
        let layout = ChunkLayout::new(bytes.len() as u64).unwrap();
        let (value, _) = hash_chunk(&layout, ChunkIndex(0), &bytes);
        assert!(VerifiedChunk::check(&layout, ChunkIndex(0), bytes.slice(1..), value).is_err());
        assert!(VerifiedChunk::from_origin(&layout, ChunkIndex(0), bytes.slice(1..)).is_err());
        assert!(VerifiedChunk::from_origin(&layout, ChunkIndex(1), Bytes::new()).is_err());
        assert!(ChunkMap::new(layout, vec![]).is_err());
    }
}
