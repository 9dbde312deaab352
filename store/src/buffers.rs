//! Memory for what is read, used again and again: a fresh piece of this size costs the kernel about as much as
//! the read itself, since each of its pages has to be found, zeroed and mapped.

use std::sync::{Arc, Mutex};

use shoal_proto::BLOCK_SIZE;

use crate::blob::lock;
use crate::reader::READ_BLOCKS;

/// Buffers of each size that wait to be used again: at most 5 MiB in all.
const KEPT: usize = 8;
/// Bytes of a block.
#[allow(clippy::cast_possible_truncation, reason = "128 KiB fit every usize")]
const BLOCK: usize = BLOCK_SIZE as usize;
/// Bytes of the longest read.
const LONGEST: usize = BLOCK * READ_BLOCKS;

/// Buffers that nobody uses. Only the two common lengths are kept: a block, and the longest read.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    blocks: Mutex<Vec<Vec<u8>>>,
    longest: Mutex<Vec<Vec<u8>>>,
}

/// A buffer in use; it goes back when it is dropped. What is in it is left from before.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    home: Arc<Buffers>,
}

impl Buffers {
    fn shelf(&self, len: usize) -> Option<&Mutex<Vec<Vec<u8>>>> {
        match len {
            BLOCK => Some(&self.blocks),
            LONGEST => Some(&self.longest),
            _ => None,
        }
    }

    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Buffer {
        let kept = self.shelf(len).and_then(|shelf| lock(shelf).pop());
        Buffer { bytes: kept.unwrap_or_else(|| vec![0; len]), home: self.clone() }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        if let Some(shelf) = self.home.shelf(bytes.len()) {
            let mut shelf = lock(shelf);
            if shelf.len() < KEPT {
                shelf.push(bytes);
            }
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}
