//! A file's bytes: chunks of one size, each of which is a hole or a part of the tar.

use super::record::{Record, put};
use super::{BLOCK, Unfit, blocks};
use crate::tree::Extent;

pub(super) const INDEX_LEN: usize = 8;
/// In place of a block's number.
pub(super) const HOLE: u32 = u32::MAX;
/// A chunk's largest size in blocks, as a power of two.
const MAX_BITS: u32 = 31;
/// In a file's format, beside the size of its chunks: each chunk tells its device.
const WITH_DEVICE: u32 = 1 << 5;
const TAR_DEVICE: u16 = 1;

/// How a file is cut.
#[derive(Clone, Copy)]
pub(super) struct Chunks {
    /// Of a chunk, in blocks, as a power of two.
    bits: u32,
    pub(super) count: u64,
}

impl Chunks {
    /// The largest ones that lie in one part of the tar each, or in none.
    pub(super) fn of(size: u64, extents: &[Extent]) -> Result<Self, Unfit> {
        let of = |bits| Self { bits, count: size.div_ceil((BLOCK as u64) << bits) };
        let mut bits = (0..=MAX_BITS).find(|&bits| of(bits).count <= 1).ok_or(Unfit::Size)?;
        for extent in extents.iter().filter(|extent| extent.len > 0) {
            let end = extent.file_offset + extent.len;
            let cuts = if end == size { extent.file_offset } else { extent.file_offset | end };
            if (cuts | extent.tar_offset) % BLOCK as u64 != 0 {
                return Err(Unfit::Pieces);
            }
            // Without a cut there are more zeros than any size has.
            bits = bits.min((cuts / BLOCK as u64).trailing_zeros());
        }
        Ok(of(bits))
    }

    /// As a node tells it.
    pub(super) fn format(self) -> u32 {
        self.bits | WITH_DEVICE
    }

    pub(super) fn write(self, image: &mut [u8], start: usize, extents: &[Extent]) -> Result<(), Unfit> {
        let (mut at, len) = (start, (BLOCK as u64) << self.bits);
        let mut extents = extents.iter().filter(|extent| extent.len > 0).peekable();
        for number in 0..self.count {
            let offset = number * len;
            while extents.next_if(|extent| extent.file_offset + extent.len <= offset).is_some() {}
            let within = extents.peek().filter(|extent| extent.file_offset <= offset);
            let mut index = Record::<INDEX_LEN>::new();
            match within {
                Some(extent) => {
                    let block = blocks(extent.tar_offset + (offset - extent.file_offset))?;
                    index.u16(2, TAR_DEVICE).u32(4, block);
                }
                None => {
                    index.u32(4, HOLE);
                }
            }
            put(image, at, &index.0);
            at += INDEX_LEN;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(file_offset: u64, tar_offset: u64, len: u64) -> Extent {
        Extent { file_offset, tar_offset, len }
    }

    /// Each chunk's block in the tar.
    fn cut(size: u64, extents: &[Extent]) -> Result<Vec<u32>, Unfit> {
        let chunks = Chunks::of(size, extents)?;
        let mut image = vec![0; usize::try_from(chunks.count).unwrap() * INDEX_LEN];
        chunks.write(&mut image, 0, extents)?;
        let block = |index: &[u8]| u32::from_le_bytes(index.last_chunk().copied().unwrap());
        Ok(image.chunks(INDEX_LEN).map(block).collect())
    }

    #[test]
    fn chunks_are_as_large_as_the_parts_of_a_file_allow() {
        assert_eq!(cut(1, &[part(0, 512, 1)]), Ok(vec![1]));
        assert_eq!(cut(5 << 30, &[part(0, 1024, 5 << 30)]), Ok(vec![2]));
        assert_eq!(cut(1 << 30, &[]), Ok(vec![HOLE]));
        let sparse = [part(0, 512, 4096), part(12288, 4608, 5000)];
        assert_eq!(cut(17288, &sparse), Ok(vec![1, HOLE, HOLE, 9, 17]));
    }

    #[test]
    fn parts_that_are_no_blocks_are_unfit_and_so_is_what_no_number_tells() {
        assert_eq!(cut(1024, &[part(0, 100, 1024)]), Err(Unfit::Pieces));
        assert_eq!(cut(1024, &[part(0, 512, 100)]), Err(Unfit::Pieces), "a hole begins within a block");
        assert_eq!(cut(1024, &[part(100, 512, 924)]), Err(Unfit::Pieces));
        assert_eq!(cut((1 << 40) + 1, &[]), Err(Unfit::Size));
        assert_eq!(cut(512, &[part(0, 512 << 32, 512)]), Err(Unfit::Size));
    }
}
