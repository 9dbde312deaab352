//! What the store holds, for people and metrics.

use std::sync::atomic::Ordering;

use crate::blob::lock;
use crate::{BlobName, Store};

/// A blob of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobStatus {
    pub name: BlobName,
    /// In bytes.
    pub size: u64,
    pub held_chunks: u32,
    pub total_chunks: u32,
    /// In unix milliseconds.
    pub last_use: u64,
    pub pinned: bool,
}

/// The store in figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Bytes of all held chunks, in units of 4 KiB.
    pub used_bytes: u64,
    pub capacity_bytes: Option<u64>,
    /// Bytes that the file system has left, the reserve included.
    pub free_bytes: u64,
    pub complete_blobs: usize,
    pub partial_blobs: usize,
    /// Chunks found corrupt on disk, whoever read them, since the store was opened.
    pub corrupt_chunks: u64,
}

impl Store {
    /// All blobs, the one used last first.
    pub fn list(&self) -> Vec<BlobStatus> {
        let table = lock(&self.handle.inner.table);
        let status = |blob: &std::sync::Arc<crate::blob::Blob>| BlobStatus {
            name: blob.name(),
            size: blob.swarm.size,
            held_chunks: lock(&blob.state).held.count(),
            total_chunks: blob.layout.count(),
            last_use: blob.last_use.load(Ordering::Relaxed),
            pinned: blob.pinned.load(Ordering::Relaxed),
        };
        let mut list: Vec<_> = table.blobs.values().map(status).collect();
        list.sort_unstable_by_key(|blob| std::cmp::Reverse(blob.last_use));
        list
    }

    pub fn statistics(&self) -> Statistics {
        let inner = &self.handle.inner;
        let table = lock(&inner.table);
        Statistics {
            used_bytes: table.used,
            capacity_bytes: inner.config.capacity_bytes,
            free_bytes: inner.disk.free_bytes().unwrap_or(0),
            complete_blobs: table.complete.len(),
            partial_blobs: table.partial.len(),
            corrupt_chunks: inner.corrupt_chunks.load(Ordering::Relaxed),
        }
    }
}
