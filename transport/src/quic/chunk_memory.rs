//! Memory for chunks that are received, used again and again: a fresh piece of this size costs the kernel about as
//! much as the copy into it, since each of its pages has to be found, zeroed and mapped.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Bytes that wait to be used again at most: the downloads of one node, where chunks are small.
const KEPT: usize = 8 << 20;
/// The smallest chunk. Chunks have a power of two of bytes; what is shorter, as a range mostly is, has a length that
/// does not come again.
#[allow(clippy::cast_possible_truncation, reason = "half a MiB")]
const SMALLEST: usize = shoal_proto::MIN_CHUNK as usize;

/// Memory that nobody uses.
#[derive(Clone, Debug, Default)]
pub(super) struct ChunkMemory {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// A chunk that is being received. Its memory goes back when the last reader of its bytes has dropped them.
pub(super) struct ChunkBuffer {
    bytes: Vec<u8>,
    home: ChunkMemory,
}

impl ChunkMemory {
    /// Room for `len` bytes, empty.
    pub(super) fn take(&self, len: usize) -> ChunkBuffer {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = free.iter().position(|kept| kept.capacity() == len);
        let bytes = fitting.map_or_else(|| Vec::with_capacity(len), |place| free.swap_remove(place));
        ChunkBuffer { bytes, home: self.clone() }
    }
}

impl ChunkBuffer {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn push(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }

    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for ChunkBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for ChunkBuffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if bytes.capacity() < SMALLEST || !bytes.capacity().is_power_of_two() {
            return;
        }
        bytes.clear();
        let mut free = self.home.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push(bytes);
        // The oldest go first: those of a blob with other chunks.
        while free.iter().map(Vec::capacity).sum::<usize>() > KEPT {
            free.remove(0);
        }
    }
}
