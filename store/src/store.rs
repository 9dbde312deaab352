//! The store's handle: what it is configured with, and how blobs come and go.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;

use shoal_proto::{ChunkIndex, ChunkLayout, ChunkMap, ChunkSet, ChunkValue, Digest, SwarmId};
use tokio::sync::broadcast;

use crate::blob::{Blob, lock};
use crate::buffers::Buffers;
use crate::disk::Disk;
use crate::flush::Schedule;
use crate::hash::{HashQueue, RECENT_BYTES};
use crate::rows::Rows;
use crate::table::{InUse, Table};
use crate::{BlobName, Loss, ReadError, StoreError, blob_rows};

/// Blobs that the store keeps at most: bounds its memory, at about 1 KiB each.
pub(crate) const MAX_BLOBS: usize = 16_384;

/// Losses that wait for a slow listener at most; one that lags more reads [`Store::list`] anew.
const LOSSES: usize = 1024;

/// Where the store lies and how much it may take.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The store's folder; made where needed.
    pub dir: PathBuf,
    /// Bytes of cached content at most; `None`: as much as the disk holds.
    pub capacity_bytes: Option<u64>,
    /// Bytes of the file system that stay free for others, and for the index.
    pub reserve_bytes: u64,
}

impl StoreConfig {
    /// No bound but the disk's end, of which 256 MiB stay free.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), capacity_bytes: None, reserve_bytes: 256 << 20 }
    }
}

/// The store. Clones are handles to the same store; the last one to go makes everything durable.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) handle: Arc<Handle>,
}

#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) inner: Arc<Inner>,
    pub(crate) threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: StoreConfig,
    pub(crate) disk: Disk,
    pub(crate) rows: Rows,
    pub(crate) table: Mutex<Table>,
    /// Held by the one thread that syncs or commits.
    pub(crate) turn: Mutex<()>,
    /// Shared by those that read a chunk back for its digest, and so hold the blob's file open.
    pub(crate) reading_back: RwLock<()>,
    pub(crate) schedule: Schedule,
    pub(crate) queue: HashQueue,
    pub(crate) buffers: Arc<Buffers>,
    /// Bytes that may still be kept for the hashing threads.
    pub(crate) recent_budget: Arc<AtomicU64>,
    /// Bytes written since the last flush began.
    pub(crate) unsynced_bytes: AtomicU64,
    pub(crate) losses: broadcast::Sender<Loss>,
    /// Chunks that were found corrupt on disk since the store was opened.
    pub(crate) corrupt_chunks: AtomicU64,
}

/// A durable chunk of a partial blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldChunk {
    pub index: ChunkIndex,
    pub value: ChunkValue,
    /// What was given when the chunk was written.
    pub evidence: Vec<u8>,
}

/// A blob being fetched. While this lives, the blob is not evicted.
#[derive(Debug)]
pub struct Partial {
    usage: InUse,
}

/// A blob whose digest matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complete {
    /// The swarm in which it was fetched.
    pub swarm: SwarmId,
    /// All chunks, without those that were found corrupt since; see [`Store::repair`].
    pub held: ChunkSet,
}

impl Inner {
    pub(crate) fn new(config: StoreConfig, disk: Disk, rows: Rows, table: Table) -> Self {
        Self {
            config,
            disk,
            rows,
            table: Mutex::new(table),
            turn: Mutex::default(),
            reading_back: RwLock::default(),
            schedule: Schedule::default(),
            queue: HashQueue::default(),
            buffers: Arc::default(),
            recent_budget: Arc::new(AtomicU64::new(RECENT_BYTES)),
            unsynced_bytes: AtomicU64::new(0),
            losses: broadcast::channel(LOSSES).0,
            corrupt_chunks: AtomicU64::new(0),
        }
    }

    /// Removes the blob; who reads it goes on reading.
    fn discard(&self, blob: &Arc<Blob>) -> Result<(), StoreError> {
        // No write is under way while its file goes.
        let _writing = lock(&blob.write);
        let name = blob.name();
        lock(&self.table).remove(blob);
        self.flush_later(crate::flush::ROWS_WITHIN);
        self.disk.remove(blob.id).map_err(|source| StoreError::File {
            operation: "remove",
            blob: name,
            source,
        })
    }

    pub(crate) fn map(&self, blob: &Blob) -> Result<ChunkMap, ReadError> {
        // First what is not durable yet: a flush meanwhile moves it to the rows.
        let pending: Vec<_> =
            lock(&blob.state).pending.iter().map(|(index, chunk)| (*index, chunk.value)).collect();
        let mut known = self.rows.read("read a chunk map", |rows| blob_rows::values(rows, blob.id))?;
        known.extend(pending);
        let value = |index: ChunkIndex| {
            known.get(&index.0).copied().ok_or_else(|| ReadError::Missing { blob: blob.name(), index })
        };
        let values = blob.layout.indexes().map(value).collect::<Result<Vec<_>, _>>()?;
        let count = ChunkIndex(blob.layout.count());
        ChunkMap::new(blob.layout, values).map_err(|_| ReadError::Missing { blob: blob.name(), index: count })
    }
}

impl Store {
    /// Begins to fetch a blob, or goes on with it: [`Partial::chunks`] tells what is here. The content digest is
    /// computed from now on, as chunks become contiguous.
    pub fn begin(&self, swarm: &SwarmId) -> Result<Partial, StoreError> {
        let inner = &self.handle.inner;
        let layout = swarm.layout()?;
        let mut table = lock(&inner.table);
        if table.complete.get(&swarm.digest).is_some_and(|blob| blob.swarm.size == swarm.size) {
            return Err(StoreError::AlreadyComplete(swarm.digest));
        }
        let blob = match table.partial.get(swarm) {
            Some(blob) => blob.clone(),
            None => inner.create(&mut table, swarm, layout)?,
        };
        let usage = inner.in_use(&mut table, blob);
        drop(table);
        inner.hash_later(&usage.blob);
        Ok(Partial { usage })
    }

    /// Forgets a partial blob and removes its file. Readers that are open go on.
    pub fn discard(&self, swarm: &SwarmId) -> Result<(), StoreError> {
        let usage = self.handle.inner.use_partial(swarm)?;
        self.handle.inner.discard(&usage.blob)
    }

    /// Forgets a complete blob, pinned or not, and removes its file. Readers that are open go on.
    pub fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let usage = self.handle.inner.use_complete(digest)?;
        self.handle.inner.discard(&usage.blob)
    }

    /// The blob of this digest, where it is complete. Does not count as a use.
    pub fn complete(&self, digest: &Digest) -> Option<Complete> {
        let blob = lock(&self.handle.inner.table).complete.get(digest)?.clone();
        let held = lock(&blob.state).held.clone();
        Some(Complete { swarm: blob.swarm.clone(), held })
    }

    /// The values of all chunks of a complete blob.
    pub fn map(&self, digest: &Digest) -> Result<ChunkMap, ReadError> {
        let inner = &self.handle.inner;
        let missing = || ReadError::Missing { blob: BlobName::Complete(*digest), index: ChunkIndex(0) };
        let blob = lock(&inner.table).complete.get(digest).cloned().ok_or_else(missing)?;
        inner.map(&blob)
    }

    /// What was given when the blob became complete.
    pub fn attestation(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let inner = &self.handle.inner;
        let Some(blob) = lock(&inner.table).complete.get(digest).cloned() else { return Ok(None) };
        if let Some(attestation) = &lock(&blob.state).completing {
            return Ok(Some(attestation.to_vec()));
        }
        Ok(inner.rows.read("read an attestation", |rows| blob_rows::attestation(rows, blob.id))?)
    }

    /// Keeps a complete blob from eviction, over restarts too.
    pub fn pin(&self, digest: &Digest) -> Result<(), StoreError> {
        self.set_pinned(digest, true)
    }

    /// Lets a complete blob be evicted again.
    pub fn unpin(&self, digest: &Digest) -> Result<(), StoreError> {
        self.set_pinned(digest, false)
    }

    fn set_pinned(&self, digest: &Digest, pinned: bool) -> Result<(), StoreError> {
        let inner = &self.handle.inner;
        let usage = inner.use_complete(digest)?;
        let _turn = lock(&inner.turn);
        let before = usage.blob.pinned.swap(pinned, Ordering::Relaxed);
        lock(&inner.table).dirty.insert(usage.blob.id);
        inner.flush_in_turn().inspect_err(|_| usage.blob.pinned.store(before, Ordering::Relaxed))?;
        if lock(&usage.blob.state).removed {
            return Err(StoreError::NotFound(BlobName::Complete(*digest)));
        }
        Ok(())
    }

    /// The folder that the store lies in.
    pub fn dir(&self) -> &std::path::Path {
        &self.handle.inner.config.dir
    }

    /// What the store lost from now on without being asked to: evicted blobs, corrupt chunks.
    pub fn losses(&self) -> broadcast::Receiver<Loss> {
        self.handle.inner.losses.subscribe()
    }
}

impl Partial {
    pub fn swarm(&self) -> &SwarmId {
        &self.usage.blob.swarm
    }

    pub fn layout(&self) -> &ChunkLayout {
        &self.usage.blob.layout
    }

    /// The chunks that can be read.
    pub fn held(&self) -> ChunkSet {
        lock(&self.usage.blob.state).held.clone()
    }

    /// The chunks that can be read, in order, each with its value and evidence.
    pub fn chunks(&self) -> Result<Vec<HeldChunk>, StoreError> {
        let blob = &self.usage.blob;
        let rows = &self.usage.store.rows;
        let (held, pending) = {
            let state = lock(&blob.state);
            (state.held.clone(), state.pending.clone())
        };
        let mut chunks = rows.read("read the chunks of a blob", |rows| blob_rows::chunks(rows, blob.id))?;
        chunks.retain(|chunk| held.contains(chunk.index) && !pending.contains_key(&chunk.index.0));
        chunks.extend(pending.into_iter().map(|(index, chunk)| HeldChunk {
            index: ChunkIndex(index),
            value: chunk.value,
            evidence: chunk.evidence.to_vec(),
        }));
        chunks.sort_unstable_by_key(|chunk| chunk.index);
        Ok(chunks)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.inner.schedule.stop();
        self.inner.queue.stop();
        for thread in lock(&self.threads).drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
        if let Err(error) = self.inner.flush() {
            tracing::warn!(%error, "chunks written last are not durable");
        }
    }
}
