//! A promise of the store, tested: after a loss of power at any moment, no chunk is claimed that is not there,
//! and none is lost that a flush made durable.
//!
//! A recorder logs every change of the folder and every sync. From one log, the folder is rebuilt as it could
//! be after a loss of power at many points: what was synced is there; of what was not, any 4 KiB pages.

#![allow(clippy::cast_possible_truncation)]

use std::collections::HashMap;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{BackendError, Builder, StorageBackend};
use shoal_proto::{Algorithm, ChunkIndex, SwarmId, VerifiedChunk};

use crate::blob::lock;
use crate::disk::Disk;
use crate::{BlobName, ContentHasher, Loss, ReadError, Store, StoreConfig, StoreError};

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
    log: Mutex<Vec<Event>>,
    sync_fails: AtomicBool,
    index_is_full: AtomicBool,
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

fn open_recorded(dir: &Path, recorder: &Arc<Recorder>) -> Store {
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
fn rebuild(log: &[Event], dir: &Path, rng: &mut fastrand::Rng) -> HashMap<BlobName, Vec<u32>> {
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

struct Sample {
    swarm: SwarmId,
    content: Bytes,
}

fn sample(seed: u64, len: usize) -> Sample {
    let mut rng = fastrand::Rng::with_seed(seed);
    let content: Bytes = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
    let digest = ContentHasher::digest(Algorithm::Sha256, &content);
    let swarm =
        SwarmId { digest, size: len as u64, origin: "registry.example.com".parse().unwrap(), round: 0 };
    Sample { swarm, content }
}

impl Sample {
    fn chunk(&self, index: u32) -> VerifiedChunk {
        let layout = self.swarm.layout().unwrap();
        let range = layout.range(ChunkIndex(index));
        let bytes = self.content.slice(range.start as usize..range.end as usize);
        VerifiedChunk::from_origin(&layout, ChunkIndex(index), bytes).unwrap()
    }

    fn name(&self) -> BlobName {
        BlobName::Partial(self.swarm.clone().into())
    }

    /// The chunks that a store claims, all of them read and compared.
    fn claimed(&self, store: &Store) -> Result<Vec<u32>, ReadError> {
        let digest = &self.swarm.digest;
        let reader = match store.complete(digest) {
            Some(_) => store.reader(digest),
            None => store.partial_reader(&self.swarm),
        };
        let Ok(mut reader) = reader else { return Ok(vec![]) };
        let held: Vec<u32> = reader.held().iter().map(|index| index.0).collect();
        for index in &held {
            let range = reader.layout().range(ChunkIndex(*index));
            let mut at = range.start;
            while at < range.end {
                let part = reader.read(at..range.end)?;
                assert_eq!(part.get()[..], self.content[at as usize..][..part.get().len()], "wrong bytes");
                at += part.get().len() as u64;
            }
        }
        Ok(held)
    }
}

/// Writes, flushes, finishes, discards, and tells the log what is durable.
fn record(seed: u64, dir: &Path, recorder: &Arc<Recorder>) -> Vec<Sample> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let samples: Vec<Sample> =
        (0..4).map(|n| sample(seed * 10 + n, 300_000 + (n as usize * 550_000))).collect();
    let store = open_recorded(dir, recorder);
    let mut written = vec![Vec::new(); samples.len()];
    for _ in 0..40 {
        let pick = rng.usize(..samples.len());
        let sample = &samples[pick];
        let Ok(partial) = store.begin(&sample.swarm) else { continue };
        let missing: Vec<ChunkIndex> = partial.held().missing_from(ChunkIndex(0)).collect();
        if let Some(index) = rng.choice(missing) {
            store.write_chunk(&sample.swarm, sample.chunk(index.0), b"evidence").unwrap();
            written[pick].push(index.0);
        } else if rng.bool() {
            recorder.note(Event::Released(sample.name())).unwrap();
            store.discard(&sample.swarm).unwrap();
            written[pick].clear();
        } else {
            store.finish(&sample.swarm, |_| b"attested".to_vec()).unwrap();
        }
        if rng.u8(..4) == 0 {
            store.flush().unwrap();
            for (sample, chunks) in samples.iter().zip(&written) {
                recorder.note(Event::Durable(sample.name(), chunks.clone())).unwrap();
                if let Some(complete) = store.complete(&sample.swarm.digest) {
                    let name = BlobName::Complete(complete.swarm.digest);
                    recorder.note(Event::Durable(name, chunks.clone())).unwrap();
                }
            }
        }
    }
    samples
}

#[test]
fn after_a_loss_of_power_nothing_is_claimed_that_is_lost_and_nothing_durable_is_lost() {
    let mut completed = 0;
    for seed in 1..=3 {
        let recorder = Arc::new(Recorder::default());
        let dir = tempfile::tempdir().unwrap();
        let samples = record(seed, dir.path(), &recorder);
        let log = lock(&recorder.log).clone();
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut cuts: Vec<usize> = (0..40).map(|_| rng.usize(..=log.len())).collect();
        cuts.push(log.len());
        for cut in cuts {
            let after = tempfile::tempdir().unwrap();
            let durable = rebuild(&log[..cut], after.path(), &mut rng);
            let store = Store::open(StoreConfig::new(after.path())).unwrap();
            for sample in &samples {
                let claimed = sample.claimed(&store);
                let claimed = claimed.unwrap_or_else(|error| panic!("seed {seed}, cut {cut}: {error}"));
                for chunk in durable.get(&sample.name()).into_iter().flatten() {
                    assert!(claimed.contains(chunk), "seed {seed}, cut {cut}: chunk {chunk} is lost");
                }
                let digest = sample.swarm.digest;
                match store.complete(&digest) {
                    Some(complete) => {
                        completed += 1;
                        assert!(
                            complete.held.is_full(),
                            "seed {seed}, cut {cut}: complete with chunks missing"
                        );
                        assert_eq!(store.map(&digest).unwrap().values().len(), complete.held.len() as usize);
                        assert_eq!(store.attestation(&digest).unwrap().unwrap(), b"attested");
                    }
                    None => assert!(
                        !durable.contains_key(&BlobName::Complete(digest)),
                        "seed {seed}, cut {cut}: a complete blob is partial again"
                    ),
                }
            }
        }
    }
    assert!(completed > 0);
}

/// Makes a blob complete. While the lock is held nothing of it becomes durable.
fn just_complete(store: &Store) -> Sample {
    let sample = sample(1, 1_000_000);
    store.begin(&sample.swarm).unwrap();
    for chunk in [0, 1] {
        store.write_chunk(&sample.swarm, sample.chunk(chunk), b"").unwrap();
    }
    {
        let _syncing = lock(&store.handle.inner.turn);
        store.finish(&sample.swarm, |_| b"attested".to_vec()).unwrap();
        assert_eq!(store.attestation(&sample.swarm.digest).unwrap().unwrap(), b"attested");
        assert_eq!(sample.claimed(store).unwrap(), [0, 1]);
        store.repair(&sample.swarm.digest, sample.chunk(1)).unwrap();
    }
    sample
}

#[test]
fn a_blob_is_complete_before_it_is_durable_and_durable_after_a_flush() {
    let recorder = Arc::new(Recorder::default());
    let dir = tempfile::tempdir().unwrap();
    let store = open_recorded(dir.path(), &recorder);
    let sample = just_complete(&store);
    store.flush().unwrap();
    let after = tempfile::tempdir().unwrap();
    let log = lock(&recorder.log).clone();
    rebuild(&log, after.path(), &mut fastrand::Rng::with_seed(1));
    let store = Store::open(StoreConfig::new(after.path())).unwrap();
    assert_eq!(store.attestation(&sample.swarm.digest).unwrap().unwrap(), b"attested");
    assert_eq!(sample.claimed(&store).unwrap(), [0, 1]);
}

#[test]
fn a_pin_is_durable_with_the_blob_that_it_keeps() {
    let recorder = Arc::new(Recorder::default());
    let dir = tempfile::tempdir().unwrap();
    let store = open_recorded(dir.path(), &recorder);
    let sample = just_complete(&store);
    store.pin(&sample.swarm.digest).unwrap();
    let after = tempfile::tempdir().unwrap();
    let log = lock(&recorder.log).clone();
    rebuild(&log, after.path(), &mut fastrand::Rng::with_seed(1));
    let store = Store::open(StoreConfig::new(after.path())).unwrap();
    assert_eq!(sample.claimed(&store).unwrap(), [0, 1]);
    assert!(store.complete(&sample.swarm.digest).is_some());
    assert_eq!(store.evict(u64::MAX), [], "it is pinned");
}

fn flip_the_first_byte(dir: &Path) {
    let file = std::fs::OpenOptions::new().write(true).open(dir.join("blobs/0000000000000000"));
    std::os::unix::fs::FileExt::write_all_at(&file.unwrap(), b"flipped", 0).unwrap();
}

#[test]
fn a_bit_that_flips_before_the_blob_is_durable_costs_one_chunk() {
    let recorder = Arc::new(Recorder::default());
    let dir = tempfile::tempdir().unwrap();
    let store = open_recorded(dir.path(), &recorder);
    let sample = just_complete(&store);
    let mut losses = store.losses();
    flip_the_first_byte(dir.path());
    assert!(matches!(sample.claimed(&store), Err(ReadError::Corrupt { .. })));
    let blob = BlobName::Complete(sample.swarm.digest);
    assert_eq!(losses.try_recv().unwrap(), Loss::Chunks { blob, chunks: vec![ChunkIndex(0)] });
    store.repair(&sample.swarm.digest, sample.chunk(0)).unwrap();
    assert_eq!(sample.claimed(&store).unwrap(), [0, 1]);
}

#[test]
fn a_blob_that_loses_a_chunk_and_cannot_be_made_durable_goes_as_a_whole() {
    for by_a_failed_sync in [true, false] {
        let recorder = Arc::new(Recorder::default());
        let dir = tempfile::tempdir().unwrap();
        let store = open_recorded(dir.path(), &recorder);
        let mut losses = store.losses();
        recorder.index_is_full.store(true, Ordering::Relaxed);
        let sample = just_complete(&store);
        recorder.sync_fails.store(by_a_failed_sync, Ordering::Relaxed);
        let digest = sample.swarm.digest;
        if by_a_failed_sync {
            store.flush().unwrap_or_else(|error| assert!(matches!(error, StoreError::Full { .. })));
        } else {
            flip_the_first_byte(dir.path());
            assert!(matches!(sample.claimed(&store), Err(ReadError::Corrupt { .. })));
        }
        assert_eq!(losses.try_recv().unwrap(), Loss::Evicted(BlobName::Complete(digest)));
        assert!(store.complete(&digest).is_none());
        assert_eq!(store.statistics().used_bytes, 0);
        recorder.index_is_full.store(false, Ordering::Relaxed);
        recorder.sync_fails.store(false, Ordering::Relaxed);
        store.begin(&sample.swarm).unwrap();
        for chunk in [0, 1] {
            store.write_chunk(&sample.swarm, sample.chunk(chunk), b"").unwrap();
        }
        store.finish(&sample.swarm, |_| vec![]).unwrap();
        drop(store);
        let store = open_recorded(dir.path(), &recorder);
        assert!(store.complete(&digest).is_some());
        assert_eq!(sample.claimed(&store).unwrap(), [0, 1]);
    }
}

#[test]
fn chunks_whose_sync_failed_are_forgotten_and_can_be_written_again() {
    let recorder = Arc::new(Recorder::default());
    let dir = tempfile::tempdir().unwrap();
    let sample = sample(1, 1_000_000);
    let store = open_recorded(dir.path(), &recorder);
    let mut losses = store.losses();
    let partial = store.begin(&sample.swarm).unwrap();
    recorder.sync_fails.store(true, Ordering::Relaxed);
    store.write_chunk(&sample.swarm, sample.chunk(1), b"").unwrap();
    store.flush().unwrap();
    assert!(partial.held().is_empty());
    assert_eq!(store.statistics().used_bytes, 0);
    let lost = losses.try_recv().unwrap();
    assert_eq!(lost, Loss::Chunks { blob: sample.name(), chunks: vec![ChunkIndex(1)] });
    recorder.sync_fails.store(false, Ordering::Relaxed);
    for chunk in [1, 0] {
        store.write_chunk(&sample.swarm, sample.chunk(chunk), b"").unwrap();
    }
    store.finish(&sample.swarm, |_| vec![]).unwrap();
    assert_eq!(sample.claimed(&store).unwrap(), [0, 1]);
}

#[test]
fn an_index_that_cannot_grow_stops_nobody_from_reading_and_works_again_later() {
    let recorder = Arc::new(Recorder::default());
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (sample(1, 1_000_000), sample(2, 1_000_000));
    let store = open_recorded(dir.path(), &recorder);
    for sample in [&old, &new] {
        store.begin(&sample.swarm).unwrap();
    }
    store.write_chunk(&old.swarm, old.chunk(0), b"").unwrap();
    store.flush().unwrap();
    recorder.index_is_full.store(true, Ordering::Relaxed);
    store.write_chunk(&new.swarm, new.chunk(0), b"").unwrap();
    assert!(matches!(store.flush(), Err(StoreError::Full { .. })));
    assert_eq!(new.claimed(&store).unwrap(), [0], "what is in memory is served");
    recorder.index_is_full.store(false, Ordering::Relaxed);
    store.flush().unwrap();
    assert_eq!(old.claimed(&store).unwrap(), [0]);
    drop(store);
    let store = open_recorded(dir.path(), &recorder);
    assert_eq!(new.claimed(&store).unwrap(), [0]);
}
