//! Making room: eviction by least recent use, and admission of what is to be written.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use shoal_proto::{ChunkIndex, ChunkLayout, ChunkSet, SwarmId};

use crate::blob::{Blob, accounted, lock};
use crate::disk;
use crate::store::{Inner, MAX_BLOBS};
use crate::table::Table;
use crate::{BlobName, Store, StoreError};

/// Something that the store held and holds no more, though nobody asked for that: the swarm has to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Or lost as a whole: a complete blob whose chunks could not be made durable goes so, even while it is read.
    Evicted(BlobName),
    /// Chunks that were corrupt on disk, or could not be made durable.
    Chunks { blob: BlobName, chunks: Vec<ChunkIndex> },
}

/// What is neither in use nor pinned.
fn evictable(table: &Table) -> impl Iterator<Item = &Arc<Blob>> {
    table
        .blobs
        .values()
        .filter(|blob| blob.users.load(Ordering::Relaxed) == 0 && !blob.pinned.load(Ordering::Relaxed))
}

impl Store {
    /// Evicts, least recently used first, until this many bytes more would fit or nothing may be evicted any
    /// more; says what went.
    pub fn evict(&self, bytes: u64) -> Vec<BlobName> {
        let inner = &self.handle.inner;
        let mut table = lock(&inner.table);
        let need = inner.excess(&table, bytes);
        inner.evict(&mut table, need)
    }
}

impl Store {
    /// Whether all of this blob would fit, beside what is in use, pinned, or being fetched; what may be evicted
    /// does not count.
    pub fn has_room_for(&self, swarm: &SwarmId) -> bool {
        let inner = &self.handle.inner;
        let table = lock(&inner.table);
        let known = table
            .partial
            .get(swarm)
            .or_else(|| table.complete.get(&swarm.digest).filter(|blob| blob.swarm.size == swarm.size));
        let is_it = |blob: &Arc<Blob>| known.is_some_and(|known| Arc::ptr_eq(known, blob));
        let missing = |blob: &Blob| accounted(blob.swarm.size).saturating_sub(lock(&blob.state).bytes);
        let fetched = table.partial.values().filter(|blob| blob.users.load(Ordering::Relaxed) > 0);
        let promised: u64 = fetched.filter(|blob| !is_it(blob)).map(|blob| missing(blob)).sum();
        let need = known.map_or(accounted(swarm.size), |blob| missing(blob));
        let spare: u64 =
            evictable(&table).filter(|blob| !is_it(blob)).map(|blob| lock(&blob.state).bytes).sum();
        inner.excess(&table, promised.saturating_add(need)) <= spare
    }
}

impl Inner {
    /// How much has to go so that this many bytes more fit.
    fn excess(&self, table: &Table, bytes: u64) -> u64 {
        let over_capacity = self
            .config
            .capacity_bytes
            .map_or(0, |capacity| table.used.saturating_add(bytes).saturating_sub(capacity));
        // Where the file system does not say, its errors will.
        let free = self.disk.free_bytes().unwrap_or(u64::MAX);
        over_capacity.max(bytes.saturating_add(self.config.reserve_bytes).saturating_sub(free))
    }

    /// Takes room for this many bytes, which the caller gives back or fills.
    pub(crate) fn admit(&self, bytes: u64) -> Result<(), StoreError> {
        for attempt in 0..2 {
            let mut table = lock(&self.table);
            let excess = self.excess(&table, bytes);
            // Where all of it would not do, nothing is thrown away in vain: what is cached is still served.
            if excess > 0 && evictable(&table).map(|blob| lock(&blob.state).bytes).sum::<u64>() >= excess {
                self.evict(&mut table, excess);
            }
            if self.excess(&table, bytes) == 0 {
                table.used += bytes;
                return Ok(());
            }
            drop(table);
            if attempt == 0 {
                self.wait_for_open_files();
            }
        }
        Err(StoreError::Full { need: bytes })
    }

    /// A flush under way holds files open, and so does a chunk that is read back for its digest: those of removed
    /// blobs too, which take room until then.
    pub(crate) fn wait_for_open_files(&self) {
        drop(lock(&self.turn));
        drop(self.reading_back.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Evicts at least this many bytes, as far as something may be evicted.
    pub(crate) fn evict(&self, table: &mut Table, bytes: u64) -> Vec<BlobName> {
        self.evict_until(table, |freed, _| freed >= bytes)
    }

    fn evict_until(&self, table: &mut Table, enough: impl Fn(u64, &Table) -> bool) -> Vec<BlobName> {
        let mut freed = 0;
        let mut gone = Vec::new();
        if enough(freed, table) {
            return gone;
        }
        let mut candidates: Vec<Arc<Blob>> = evictable(table).cloned().collect();
        candidates.sort_unstable_by_key(|blob| blob.last_use.load(Ordering::Relaxed));
        for blob in candidates {
            if enough(freed, table) {
                break;
            }
            let bytes = lock(&blob.state).bytes;
            if let Some(name) = self.lose(table, &blob) {
                freed += bytes;
                gone.push(name);
            }
        }
        gone
    }

    /// Removes a blob though nobody asked for that, and tells listeners; `None` where its file stays.
    pub(crate) fn lose(&self, table: &mut Table, blob: &Arc<Blob>) -> Option<BlobName> {
        let name = blob.name();
        // The file goes first, which makes room at once even where the index cannot be written. After a crash, rows
        // without a file are dropped.
        if let Err(error) = self.disk.remove(blob.id) {
            tracing::warn!(blob = %name, %error, "cannot remove");
            return None;
        }
        table.remove(blob);
        tracing::info!(blob = %name, "removed");
        // Nobody may be listening.
        let _ = self.losses.send(Loss::Evicted(name.clone()));
        self.flush_later(crate::flush::ROWS_WITHIN);
        Some(name)
    }

    /// Makes a new partial blob with an empty file.
    pub(crate) fn create(
        &self,
        table: &mut Table,
        swarm: &SwarmId,
        layout: ChunkLayout,
    ) -> Result<Arc<Blob>, StoreError> {
        self.evict_until(table, |_, table| table.blobs.len() < MAX_BLOBS);
        if table.blobs.len() >= MAX_BLOBS {
            return Err(StoreError::Full { need: 0 });
        }
        let id = table.next_id;
        table.next_id += 1;
        let mut created = self.disk.create(id);
        if created.as_ref().is_err_and(disk::is_full) {
            self.evict(table, 1);
            created = self.disk.create(id);
        }
        created.map_err(|source| {
            if disk::is_full(&source) {
                return StoreError::Full { need: 0 };
            }
            StoreError::File { operation: "create", blob: BlobName::Partial(swarm.clone().into()), source }
        })?;
        table.names_changed = true;
        let held = ChunkSet::empty(layout.count());
        let blob = Arc::new(Blob::new(id, swarm.clone(), layout, held, false));
        table.insert(&blob, false);
        Ok(blob)
    }
}
