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
