//! Logs every change of the folder, and rebuilds the folder as it may be after a loss of power.

use std::collections::HashMap;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use redb::backends::FileBackend;
use redb::{BackendError, Builder, StorageBackend};

use crate::blob::lock;
use crate::disk::Disk;
use crate::{BlobName, Store, StoreConfig};

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Create(u64),
    Write(u64, u64, Vec<u8>),
    Sync(u64),
    SyncNames,
    Remove(u64),
    IndexLen(u64),
    IndexWrite(u64, Vec<u8>),
    IndexSync,
    /// From here on these chunks must survive.
    Durable(BlobName, Vec<u32>),
    /// From here on the blob may be gone.
    Released(BlobName),
}

#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pub(super) log: Mutex<Vec<Event>>,
    pub(super) sync_fails: AtomicBool,
    pub(super) index_is_full: AtomicBool,
}

impl Recorder {
    pub(crate) fn note(&self, event: Event) -> io::Result<()> {
        let fails = match event {
            Event::Sync(_) => self.sync_fails.load(Ordering::Relaxed).then_some(io::ErrorKind::Other),
            Event::IndexWrite(..) | Event::IndexLen(_) => {
                self.index_is_full.load(Ordering::Relaxed).then_some(io::ErrorKind::StorageFull)
            }
            _ => None,
        };
        match fails {
            Some(kind) => Err(kind.into()),
            None => {
                lock(&self.log).push(event);
                Ok(())
            }
        }
    }
}

#[derive(Debug)]
struct RecordedIndex {
    file: FileBackend,
    recorder: Arc<Recorder>,
}

impl StorageBackend for RecordedIndex {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.recorder.note(Event::IndexLen(len))?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.recorder.note(Event::IndexSync)
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.recorder.note(Event::IndexWrite(offset, data.to_vec()))?;
        self.file.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}

pub(super) fn open_recorded(dir: &Path, recorder: &Arc<Recorder>) -> Store {
    let mut disk = Disk::open(dir).unwrap();
    disk.recorder = Some(recorder.clone());
    let recorder = recorder.clone();
    let opener = move |builder: &Builder, path: &Path| {
        let file = std::fs::OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
        let file = FileBackend::new(file.map_err(redb::StorageError::from)?)?;
        builder.create_with_backend(RecordedIndex { file, recorder: recorder.clone() })
    };
    Store::open_on(StoreConfig { reserve_bytes: 0, ..StoreConfig::new(dir) }, disk, Box::new(opener)).unwrap()
}

/// A file as it may be found after a loss of power.
#[derive(Default)]
struct Found {
    synced: Vec<u8>,
    since: Vec<(u64, Vec<u8>)>,
    created: bool,
    name_synced: bool,
    removed: bool,
}

const PAGE: usize = 4096;

impl Found {
    fn apply(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        content.resize(content.len().max(end), 0);
        content[start..end].copy_from_slice(bytes);
    }

    fn sync(&mut self) {
        for (offset, bytes) in self.since.drain(..) {
            Self::apply(&mut self.synced, offset, &bytes);
        }
    }

    /// What was synced, and any pages of what was not.
    fn content(&self, rng: &mut fastrand::Rng) -> Vec<u8> {
        let mut content = self.synced.clone();
        let share = rng.f32();
        for (offset, bytes) in &self.since {
            for (number, page) in bytes.chunks(PAGE).enumerate() {
                if rng.f32() < share {
                    Self::apply(&mut content, offset + (number * PAGE) as u64, page);
                }
            }
        }
        content
    }
}

/// Builds the folder as it may be after this log; says which chunks must be there.
pub(super) fn rebuild(log: &[Event], dir: &Path, rng: &mut fastrand::Rng) -> HashMap<BlobName, Vec<u32>> {
    let (mut files, mut index) = (HashMap::<u64, Found>::new(), Found::default());
    let mut durable = HashMap::new();
    for event in log.iter().cloned() {
        match event {
            Event::Create(id) => files.entry(id).or_default().created = true,
            Event::Write(id, offset, bytes) => files.entry(id).or_default().since.push((offset, bytes)),
            Event::Sync(id) => files.entry(id).or_default().sync(),
            Event::SyncNames => {
                files.retain(|_, file| !file.removed);
                files.values_mut().for_each(|file| file.name_synced = true);
            }
            Event::Remove(id) => files.entry(id).or_default().removed = true,
            // A page at the end stands for the length.
            Event::IndexLen(len) => index.since.push((len - 1, vec![0])),
            Event::IndexWrite(offset, bytes) => index.since.push((offset, bytes)),
            Event::IndexSync => index.sync(),
            Event::Durable(name, chunks) => drop(durable.insert(name, chunks)),
            Event::Released(name) => drop(durable.remove(&name)),
        }
    }
    std::fs::create_dir_all(dir.join("blobs")).unwrap();
    std::fs::write(dir.join("index.redb"), index.content(rng)).unwrap();
    for (id, file) in &files {
        let there = file.created && (file.name_synced || rng.bool()) && (!file.removed || rng.bool());
        if there {
            std::fs::write(dir.join(format!("blobs/{id:016x}")), file.content(rng)).unwrap();
        }
    }
    durable
}
