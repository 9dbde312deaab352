//! A layer on EROFS: the kernel knows names and attributes by itself, keeps the files' pages in large pieces, and asks
//! for nothing but bytes of the tar, which the [filesystem](crate::fs) shows as one file for each layer.
//!
//! What EROFS has no way to say, and machines without EROFS on files, are left to FUSE alone.

mod chunks;
mod folders;
mod image;
mod mount;
mod record;
mod xattrs;

use image::empty_image;
pub use image::{Unfit, image, lone_image};
pub use mount::{ErofsMount, Mounter, mount, try_out};

/// As a power of two: tar's blocks, so that each file in it begins with one.
const BLOCK_BITS: u8 = 9;
const BLOCK: usize = 1 << BLOCK_BITS;

/// The number of blocks in which so many bytes lie, or of the block that begins there.
fn blocks(bytes: u64) -> Result<u32, Unfit> {
    u32::try_from(bytes.div_ceil(BLOCK as u64)).ok().filter(|&count| count != chunks::HOLE).ok_or(Unfit::Size)
}
