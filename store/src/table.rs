//! All blobs in memory: their names, and how much they take.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use shoal_proto::{Digest, SwarmId};

use crate::blob::{Blob, lock};
use crate::store::Inner;
use crate::{BlobName, StoreError};

#[derive(Debug, Default)]
pub(crate) struct Table {
    pub(crate) blobs: HashMap<u64, Arc<Blob>>,
    pub(crate) partial: HashMap<SwarmId, Arc<Blob>>,
    pub(crate) complete: HashMap<Digest, Arc<Blob>>,
    /// Bytes of all held chunks and of those being written.
    pub(crate) used: u64,
    /// Numbers are never used twice: rows of a removed blob may outlive its file until the next flush.
    pub(crate) next_id: u64,
    /// The last stamp given.
    pub(crate) clock: u64,
    /// Blobs with pending chunks, or with a row that has changed.
    pub(crate) dirty: HashSet<u64>,
    /// Blobs whose last use is not in the index yet.
    pub(crate) touched: HashSet<u64>,
    /// Removed blobs whose rows are still there.
    pub(crate) dead: Vec<Arc<Blob>>,
    /// Files were created or removed since names were last synced.
    pub(crate) names_changed: bool,
    /// Rows were written that no commit made durable yet.
    pub(crate) facts_changed: bool,
}

impl Table {
    pub(crate) fn insert(&mut self, blob: &Arc<Blob>, complete: bool) {
        self.blobs.insert(blob.id, blob.clone());
        if complete {
            self.complete.insert(blob.swarm.digest, blob.clone());
        } else {
            self.partial.insert(blob.swarm.clone(), blob.clone());
        }
    }

    /// Takes a blob out of all lists. Its rows go with the next flush after its last user went.
    pub(crate) fn remove(&mut self, blob: &Arc<Blob>) {
        if self.blobs.remove(&blob.id).is_none() {
            return;
        }
        let is_it = |other: &Arc<Blob>| Arc::ptr_eq(other, blob);
        if self.partial.get(&blob.swarm).is_some_and(is_it) {
            self.partial.remove(&blob.swarm);
        }
        if self.complete.get(&blob.swarm.digest).is_some_and(is_it) {
            self.complete.remove(&blob.swarm.digest);
        }
        self.dirty.remove(&blob.id);
        self.touched.remove(&blob.id);
        self.dead.push(blob.clone());
        self.names_changed = true;
        let mut state = lock(&blob.state);
        state.removed = true;
        state.recent.clear();
        // An open file would go on taking room.
        state.unsynced = None;
        self.used = self.used.saturating_sub(state.bytes);
    }

    /// Notes a use now. Stamps are unix milliseconds, strictly rising, so that the order of two uses is certain.
    pub(crate) fn touch(&mut self, blob: &Blob) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        self.clock = u64::try_from(now).unwrap_or(u64::MAX).max(self.clock.saturating_add(1));
        blob.last_use.store(self.clock, Ordering::Relaxed);
        if self.blobs.contains_key(&blob.id) {
            self.touched.insert(blob.id);
        }
    }
}

/// Keeps a blob from being evicted.
#[derive(Debug)]
pub(crate) struct InUse {
    pub(crate) store: Arc<Inner>,
    pub(crate) blob: Arc<Blob>,
    /// Whether this is a use that keeps the blob here for longer.
    counts: bool,
}

impl Inner {
    pub(crate) fn use_complete(self: &Arc<Self>, digest: &Digest) -> Result<InUse, StoreError> {
        let mut table = lock(&self.table);
        let found = table.complete.get(digest).cloned();
        let blob = found.ok_or_else(|| StoreError::NotFound(BlobName::Complete(*digest)))?;
        Ok(self.in_use(&mut table, blob))
    }

    /// Keeps the blob here for now, and not for longer.
    pub(crate) fn look_at_complete(self: &Arc<Self>, digest: &Digest) -> Result<InUse, StoreError> {
        let table = lock(&self.table);
        let found = table.complete.get(digest).cloned();
        let blob = found.ok_or_else(|| StoreError::NotFound(BlobName::Complete(*digest)))?;
        blob.users.fetch_add(1, Ordering::Relaxed);
        Ok(InUse { store: self.clone(), blob, counts: false })
    }

    pub(crate) fn use_partial(self: &Arc<Self>, swarm: &SwarmId) -> Result<InUse, StoreError> {
        let mut table = lock(&self.table);
        let found = table.partial.get(swarm).cloned();
        let blob = found.ok_or_else(|| StoreError::NotFound(BlobName::Partial(swarm.clone().into())))?;
        Ok(self.in_use(&mut table, blob))
    }

    pub(crate) fn in_use(self: &Arc<Self>, table: &mut Table, blob: Arc<Blob>) -> InUse {
        blob.users.fetch_add(1, Ordering::Relaxed);
        table.touch(&blob);
        InUse { store: self.clone(), blob, counts: true }
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut table = lock(&self.store.table);
        if self.blob.users.fetch_sub(1, Ordering::Relaxed) == 1 {
            // Nobody goes on with it for now: what is kept for its digest is others' to use.
            lock(&self.blob.state).recent.clear();
        }
        if !self.counts {
            return;
        }
        table.touch(&self.blob);
        drop(table);
        self.store.flush_later(crate::flush::TOUCHES_WITHIN);
    }
}
