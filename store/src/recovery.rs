//! Opening a folder: rows and files are brought together. Nothing is read or hashed.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use redb::Builder;
use shoal_proto::{ChunkIndex, ChunkSet};

use crate::blob::{Blob, lock};
use crate::blob_rows::Loaded;
use crate::disk::Disk;
use crate::rows::{Opener, Rows};
use crate::store::{Handle, Inner};
use crate::table::Table;
use crate::{OpenError, RowsError, Store, StoreConfig, blob_rows, facts};

/// Threads that compute content digests, at most: more would take the processor from containers.
const HASH_THREADS: usize = 4;

impl Store {
    /// Opens the store in this folder, or makes one. Durable chunks are there again; files without rows and
    /// rows without files are removed.
    pub fn open(config: StoreConfig) -> Result<Self, OpenError> {
        let disk = Disk::open(&config.dir)?;
        Self::open_on(config, disk, Box::new(|builder: &Builder, path| builder.create(path)))
    }

    pub(crate) fn open_on(config: StoreConfig, disk: Disk, opener: Opener) -> Result<Self, OpenError> {
        let in_index = |source| OpenError::Index { dir: config.dir.clone(), source };
        let rows = Rows::open(disk.index_path(), opener).map_err(in_index)?;
        let files = disk.list().map_err(|source| OpenError::Folder { dir: config.dir.clone(), source })?;
        let (table, lost) = recover(&rows, &files).map_err(in_index)?;
        for (id, _) in files.iter().filter(|(id, _)| !table.blobs.contains_key(id)) {
            tracing::info!(file = %format_args!("{id:016x}"), "removing a file that no row names");
            disk.remove(*id).map_err(|source| OpenError::Folder { dir: config.dir.clone(), source })?;
        }
        tracing::info!(blobs = table.blobs.len(), lost, used_bytes = table.used, "store opened");
        let inner = Arc::new(Inner::new(config, disk, rows, table));
        let handle = Handle { inner: inner.clone(), threads: Mutex::default() };
        let threads = start_threads(&inner)
            .map_err(|source| OpenError::Folder { dir: inner.config.dir.clone(), source })?;
        *lock(&handle.threads) = threads;
        Ok(Self { handle: Arc::new(handle) })
    }
}

fn start_threads(inner: &Arc<Inner>) -> std::io::Result<Vec<JoinHandle<()>>> {
    let hashers = thread::available_parallelism().map_or(1, |count| count.get().min(HASH_THREADS));
    let mut threads = Vec::new();
    for _ in 0..hashers {
        let inner = inner.clone();
        threads.push(
            thread::Builder::new().name("store-hash".into()).spawn(move || inner.hash_until_stopped())?,
        );
    }
    let inner = inner.clone();
    threads
        .push(thread::Builder::new().name("store-flush".into()).spawn(move || inner.flush_until_stopped())?);
    Ok(threads)
}

/// The blobs that have both rows and a file, and how many had rows only; the rows of those are removed.
fn recover(rows: &Rows, files: &[(u64, u64)]) -> Result<(Table, usize), RowsError> {
    rows.write("prepare the index", |rows| {
        blob_rows::create_tables(rows)?;
        facts::create_tables(rows)
    })?;
    let (loaded, mut drop_rows) = rows.read("read the blobs", blob_rows::load)?;
    let lengths: HashMap<u64, u64> = files.iter().copied().collect();
    let highest =
        loaded.iter().map(|blob| blob.id).chain(drop_rows.iter().copied()).chain(lengths.keys().copied());
    let mut table = Table { next_id: highest.max().map_or(0, |id| id.saturating_add(1)), ..Table::default() };
    for blob in loaded {
        let id = blob.id;
        let known = if blob.row.complete {
            table.complete.contains_key(&blob.swarm.digest)
        } else {
            table.partial.contains_key(&blob.swarm)
        };
        match lengths.get(&id) {
            Some(len) if !known => admit(&mut table, blob, *len),
            _ => drop_rows.push(id),
        }
    }
    if !drop_rows.is_empty() {
        rows.write("remove rows without a file", |rows| {
            drop_rows.iter().try_for_each(|id| blob_rows::remove_blob(rows, *id))
        })?;
    }
    Ok((table, drop_rows.len()))
}

fn admit(table: &mut Table, blob: Loaded, file_len: u64) {
    let mut held = ChunkSet::empty(blob.layout.count());
    // A file that somebody cut short holds nothing past its end.
    for index in blob.held.iter().filter(|index: &ChunkIndex| blob.layout.range(*index).end <= file_len) {
        held.insert(index);
    }
    let complete = blob.row.complete;
    let pinned = blob.row.pinned;
    let blob_in_memory = Arc::new(Blob::new(blob.id, blob.swarm, blob.layout, held, complete));
    blob_in_memory.last_use.store(blob.last_use, Ordering::Relaxed);
    blob_in_memory.pinned.store(pinned, Ordering::Relaxed);
    table.clock = table.clock.max(blob.last_use);
    table.used += lock(&blob_in_memory.state).bytes;
    table.insert(&blob_in_memory, complete);
}
