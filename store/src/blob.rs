//! One blob in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use shoal_proto::{BlockValues, ChunkIndex, ChunkLayout, ChunkSet, ChunkValue, SwarmId};

use crate::BlobName;
use crate::blob_rows::BlobRow;
use crate::disk::Disk;
use crate::hash::Progress;

/// Locks; a thread that panicked while it held the lock left nothing half done that matters more than going on.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A chunk that is written and not durable yet.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) value: ChunkValue,
    pub(crate) blocks: Arc<BlockValues>,
    pub(crate) evidence: Arc<[u8]>,
}

/// Bytes kept in memory until the content digest has passed them; gives its share of the budget back when
/// dropped.
#[derive(Debug)]
pub(crate) struct Recent {
    pub(crate) bytes: Bytes,
    pub(crate) budget: Arc<AtomicU64>,
}

impl Drop for Recent {
    fn drop(&mut self) {
        self.budget.fetch_add(self.bytes.len() as u64, Ordering::Relaxed);
    }
}

/// Locks are taken in this order, any of them may be left out: `hash`, `write`, the store's `reading_back`, its flush
/// turn, the table, `state`.
#[derive(Debug)]
pub(crate) struct Blob {
    /// Names the file and the rows.
    pub(crate) id: u64,
    pub(crate) swarm: SwarmId,
    pub(crate) layout: ChunkLayout,
    /// Handles that keep it from being evicted. Raised only under the table's lock.
    pub(crate) users: AtomicU32,
    pub(crate) last_use: AtomicU64,
    pub(crate) pinned: AtomicBool,
    pub(crate) hash: Mutex<Progress>,
    /// Held while bytes go into the file: two chunks with one index and different values must never mix.
    pub(crate) write: Mutex<()>,
    pub(crate) state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) complete: bool,
    /// The attestation, from when the digest matched until the row that says so is durable.
    pub(crate) completing: Option<Arc<[u8]>>,
    /// Evicted or discarded: the file is gone, the rows go with the next flush.
    pub(crate) removed: bool,
    /// What can be read; without the keys of `pending`, what is durable.
    pub(crate) held: ChunkSet,
    pub(crate) pending: BTreeMap<u32, Pending>,
    /// Bytes of held chunks as they count towards the capacity.
    pub(crate) bytes: u64,
    /// How often a chunk was forgotten: what was learned before the last time is worth nothing.
    pub(crate) forgets: u64,
    /// The file, open as long as somebody uses it.
    file: Weak<File>,
    /// Keeps the file open from a write to its sync, so that an error of the write-back is seen.
    pub(crate) unsynced: Option<Arc<File>>,
    /// How far the content digest has come, as the hashing threads last said.
    pub(crate) hashed: u32,
    /// Waits in the queue of the hashing threads.
    pub(crate) queued: bool,
    pub(crate) recent: BTreeMap<u32, Recent>,
}

impl Blob {
    pub(crate) fn new(id: u64, swarm: SwarmId, layout: ChunkLayout, held: ChunkSet, complete: bool) -> Self {
        let bytes = held.iter().map(|index| accounted(layout.len_of(index))).sum();
        Self {
            id,
            hash: Mutex::new(Progress::new(swarm.digest.algorithm())),
            swarm,
            layout,
            users: AtomicU32::new(0),
            last_use: AtomicU64::new(0),
            pinned: AtomicBool::new(false),
            write: Mutex::new(()),
            state: Mutex::new(State {
                complete,
                completing: None,
                removed: false,
                held,
                pending: BTreeMap::new(),
                bytes,
                forgets: 0,
                file: Weak::new(),
                unsynced: None,
                hashed: 0,
                queued: false,
                recent: BTreeMap::new(),
            }),
        }
    }

    pub(crate) fn name(&self) -> BlobName {
        if lock(&self.state).complete {
            BlobName::Complete(self.swarm.digest)
        } else {
            BlobName::Partial(self.swarm.clone().into())
        }
    }

    /// The file, opened at most once at a time.
    pub(crate) fn file(&self, disk: &Disk) -> io::Result<Arc<File>> {
        let mut state = lock(&self.state);
        if let Some(file) = state.file.upgrade() {
            return Ok(file);
        }
        let file = Arc::new(disk.open_blob(self.id)?);
        state.file = Arc::downgrade(&file);
        Ok(file)
    }

    /// Its row, where these chunks are durable.
    pub(crate) fn row(&self, complete: bool, durable: &ChunkSet) -> BlobRow {
        BlobRow::new(&self.swarm, complete, self.pinned.load(Ordering::Relaxed), durable)
    }
}

impl State {
    pub(crate) fn durable(&self) -> ChunkSet {
        let mut durable = self.held.clone();
        for index in self.pending.keys() {
            durable.remove(ChunkIndex(*index));
        }
        durable
    }

    /// Whether the content digest can go on.
    pub(crate) fn can_hash(&self) -> bool {
        !self.complete && !self.removed && self.held.contains(ChunkIndex(self.hashed))
    }
}

/// What file systems commonly allocate at once, in bytes.
const PAGE: u64 = 4096;

/// How many bytes of disk a chunk of this length takes.
pub(crate) fn accounted(len: u64) -> u64 {
    len.next_multiple_of(PAGE)
}
