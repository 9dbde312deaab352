//! Durability, in batches: data is synced, then the rows that claim it are committed.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoal_proto::{ChunkIndex, ChunkSet};

use crate::blob::{Blob, Pending, accounted, lock};
use crate::store::Inner;
use crate::{Loss, Store, StoreError, blob_rows};

/// How long a written chunk or a changed row waits for others: what a crash may cost.
pub(crate) const ROWS_WITHIN: Duration = Duration::from_secs(1);
/// How long the time of a last use may wait: losing it only blurs the order of eviction.
pub(crate) const TOUCHES_WITHIN: Duration = Duration::from_secs(60);
/// Wait after a flush that failed, for instance on a full disk.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Written bytes that cause a flush before its time: a fifth of a second of a 3 Gbit/s download.
pub(crate) const FLUSH_BYTES: u64 = 64 << 20;

/// When the flushing thread works next.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    next: Mutex<Next>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Next {
    due: Option<Instant>,
    stop: bool,
}

impl Schedule {
    fn within(&self, wait: Duration) {
        let due = Instant::now() + wait;
        let mut next = lock(&self.next);
        if next.due.is_none_or(|earlier| due < earlier) {
            next.due = Some(due);
            self.changed.notify_one();
        }
    }

    pub(crate) fn stop(&self) {
        lock(&self.next).stop = true;
        self.changed.notify_one();
    }

    /// Waits until a flush is due; false when the store closes.
    fn wait(&self) -> bool {
        let mut next = lock(&self.next);
        loop {
            let now = Instant::now();
            next = match next.due {
                _ if next.stop => return false,
                Some(due) if due <= now => {
                    next.due = None;
                    return true;
                }
                Some(due) => {
                    self.changed.wait_timeout(next, due - now).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(next).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// What one flush makes durable.
struct Work {
    dirty: Vec<Batch>,
    stamps: Vec<(u64, u64)>,
    dead: Vec<Arc<Blob>>,
    names_changed: bool,
    facts_changed: bool,
}

struct Batch {
    blob: Arc<Blob>,
    chunks: BTreeMap<u32, Pending>,
    file: Option<Arc<File>>,
    complete: bool,
    /// [`State::completing`](crate::blob::State) when the flush began.
    completing: Option<Arc<[u8]>>,
    /// What is durable after this flush.
    held: ChunkSet,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.dirty.is_empty()
            && self.stamps.is_empty()
            && self.dead.is_empty()
            && !self.names_changed
            && !self.facts_changed
    }
}

impl Store {
    /// Makes everything durable that was written before the call.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.handle.inner.flush()
    }
}

impl Inner {
    pub(crate) fn flush_later(&self, wait: Duration) {
        self.schedule.within(wait);
    }

    pub(crate) fn flush_until_stopped(&self) {
        while self.schedule.wait() {
            if let Err(error) = self.flush() {
                tracing::warn!(%error, "chunks written last are not durable yet");
                self.flush_later(RETRY_AFTER);
            }
        }
    }

    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        let _turn = lock(&self.turn);
        self.flush_in_turn()
    }

    /// As [`Self::flush`]; the caller holds the turn.
    pub(crate) fn flush_in_turn(&self) -> Result<(), StoreError> {
        self.unsynced_bytes.store(0, Ordering::Relaxed);
        let mut work = self.take_work();
        work.dirty.retain(|batch| self.sync(batch));
        if work.is_empty() {
            return Ok(());
        }
        let done = self.commit(&work);
        self.finish_work(work, done.is_ok());
        done
    }

    fn take_work(&self) -> Work {
        let mut table = lock(&self.table);
        let table = &mut *table;
        let blob_of = |id| table.blobs.get(&id);
        let batch = |blob: &Arc<Blob>| {
            let state = lock(&blob.state);
            Batch {
                blob: blob.clone(),
                chunks: state.pending.clone(),
                file: state.unsynced.clone(),
                complete: state.complete,
                completing: state.completing.clone(),
                held: state.held.clone(),
            }
        };
        let dirty = table.dirty.drain().filter_map(blob_of).map(batch).collect();
        let stamp = |blob: &Arc<Blob>| (blob.id, blob.last_use.load(Ordering::Relaxed));
        let stamps = table.touched.drain().filter_map(blob_of).map(stamp).collect();
        let unused = |blob: &mut Arc<Blob>| blob.users.load(Ordering::Relaxed) == 0;
        Work {
            dirty,
            stamps,
            // Whoever still reads a removed blob needs its rows.
            dead: table.dead.extract_if(.., unused).collect(),
            names_changed: std::mem::take(&mut table.names_changed),
            facts_changed: std::mem::take(&mut table.facts_changed),
        }
    }

    /// Syncs a blob's data. After an error nobody knows which bytes reached the disk, so its chunks are forgotten.
    fn sync(&self, batch: &Batch) -> bool {
        let Some(file) = &batch.file else { return true };
        let Err(error) = self.disk.sync(batch.blob.id, file) else { return true };
        tracing::error!(blob = %batch.blob.name(), %error, "chunks did not reach the disk and are forgotten");
        let chunks: Vec<_> = batch.chunks.keys().map(|index| ChunkIndex(*index)).collect();
        self.drop_chunks(&batch.blob, &chunks);
        false
    }

    fn commit(&self, work: &Work) -> Result<(), StoreError> {
        if work.names_changed {
            self.disk.sync_names().map_err(StoreError::Names)?;
        }
        let write = self.rows.write("commit what was written", |rows| {
            for batch in &work.dirty {
                blob_rows::put_chunks(rows, batch.blob.id, batch.chunks.iter())?;
                let row = batch.blob.row(batch.complete, &batch.held);
                match &batch.completing {
                    Some(attestation) => blob_rows::complete(rows, batch.blob.id, &row, attestation)?,
                    None => blob_rows::put_blob(rows, batch.blob.id, &row)?,
                }
            }
            blob_rows::put_last_use(rows, &work.stamps)?;
            work.dead.iter().try_for_each(|blob| blob_rows::remove_blob(rows, blob.id))
        });
        write.map_err(StoreError::from)
    }

    /// Notes what is durable now, or puts the work back to be tried again.
    fn finish_work(&self, work: Work, done: bool) {
        let mut table = lock(&self.table);
        if !done {
            table.touched.extend(work.stamps.iter().map(|(id, _)| *id));
            table.dead.extend(work.dead);
            table.names_changed |= work.names_changed;
            table.facts_changed |= work.facts_changed;
        }
        for batch in work.dirty {
            let mut state = lock(&batch.blob.state);
            if done {
                state.pending.retain(|index, _| !batch.chunks.contains_key(index));
                if batch.completing.is_some() {
                    state.completing = None;
                }
            }
            if state.pending.is_empty() {
                state.unsynced = None;
            }
            let is_durable = state.pending.is_empty() && state.completing.is_none();
            if !is_durable && !state.removed {
                table.dirty.insert(batch.blob.id);
            }
        }
    }

    /// Forgets a chunk whose bytes on disk are not what they should be, durably. Does nothing where a chunk of
    /// the blob was forgotten since `forgets` was read: the bytes may be others by now.
    pub(crate) fn forget(&self, blob: &Arc<Blob>, index: ChunkIndex, forgets: u64) {
        let _turn = lock(&self.turn);
        let completing = lock(&blob.state).completing.is_some();
        // With the values of all its chunks in the index, the one can be repaired.
        if completing && let Err(error) = self.flush_in_turn() {
            tracing::warn!(blob = %blob.name(), %error, "a blob with a corrupt chunk cannot be made durable");
        }
        {
            let state = lock(&blob.state);
            if state.removed || state.forgets != forgets {
                return;
            }
        }
        self.corrupt_chunks.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(blob = %blob.name(), chunk = %index, "corrupt on disk and forgotten");
        self.drop_chunks(blob, &[index]);
        let (complete, durable) = {
            let state = lock(&blob.state);
            if state.removed {
                return;
            }
            (state.complete, state.durable())
        };
        let write = self.rows.write("forget a chunk", |rows| {
            if complete {
                blob_rows::put_blob(rows, blob.id, &blob.row(true, &durable))
            } else {
                blob_rows::remove_chunk(rows, blob.id, index)
            }
        });
        if let Err(error) = write {
            // After a restart it is found corrupt again.
            tracing::warn!(%error, "the index still names a corrupt chunk");
        }
    }

    /// Forgets chunks in memory and tells listeners; a blob that became complete and is not durable goes as a whole,
    /// for no row has the values by which a chunk of it could be repaired. The caller holds the turn.
    fn drop_chunks(&self, blob: &Arc<Blob>, chunks: &[ChunkIndex]) {
        let mut table = lock(&self.table);
        let mut state = lock(&blob.state);
        if state.removed {
            return;
        }
        if state.completing.is_some() {
            drop(state);
            let name = blob.name();
            // A file that cannot be removed now goes at the next start, for no row names it.
            if self.lose(&mut table, blob).is_none() {
                table.remove(blob);
                let _ = self.losses.send(Loss::Evicted(name));
                self.flush_later(ROWS_WITHIN);
            }
            return;
        }
        let mut gone = Vec::new();
        for index in chunks {
            if state.held.remove(*index) {
                let bytes = accounted(blob.layout.len_of(*index));
                state.bytes = state.bytes.saturating_sub(bytes);
                table.used = table.used.saturating_sub(bytes);
                gone.push(*index);
            }
            state.pending.remove(&index.0);
            state.recent.remove(&index.0);
        }
        state.forgets += 1;
        state.hashed = 0;
        drop((state, table));
        if !gone.is_empty() {
            // Nobody may be listening.
            let _ = self.losses.send(Loss::Chunks { blob: blob.name(), chunks: gone });
        }
    }
}
