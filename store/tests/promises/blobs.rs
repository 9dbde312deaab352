//! Blobs to test with.

use std::io;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use shoal_proto::{Algorithm, ChunkIndex, ChunkLayout, MIN_CHUNK, SwarmId, VerifiedChunk};
use shoal_store::{Complete, ContentHasher, ReadError, Reader, Store, StoreConfig};

/// The chunks of all blobs of up to 128 MiB.
pub(crate) const CHUNK: usize = MIN_CHUNK as usize;

pub(crate) struct Blob {
    pub(crate) swarm: SwarmId,
    pub(crate) content: Bytes,
}

impl Blob {
    pub(crate) fn new(seed: u64, len: usize) -> Self {
        Self::with(seed, len, Algorithm::Sha256)
    }

    pub(crate) fn with(seed: u64, len: usize, algorithm: Algorithm) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut content = vec![0; len];
        rng.fill(&mut content);
        let digest = ContentHasher::digest(algorithm, &content);
        let origin = "registry.example.com".parse().unwrap();
        Self { swarm: SwarmId { digest, size: len as u64, origin, round: 0 }, content: content.into() }
    }

    pub(crate) fn layout(&self) -> ChunkLayout {
        self.swarm.layout().unwrap()
    }

    pub(crate) fn chunk(&self, index: u32) -> VerifiedChunk {
        let layout = self.layout();
        let range = layout.range(ChunkIndex(index));
        let bytes = self.content.slice(range.start as usize..range.end as usize);
        VerifiedChunk::from_origin(&layout, ChunkIndex(index), bytes).unwrap()
    }

    pub(crate) fn write_all(&self, store: &Store) {
        for index in 0..self.layout().count() {
            store.write_chunk(&self.swarm, self.chunk(index), format!("entry {index}").as_bytes()).unwrap();
        }
    }

    /// Begins, writes and finishes.
    pub(crate) fn put(&self, store: &Store) -> Complete {
        let _partial = store.begin(&self.swarm).unwrap();
        self.write_all(store);
        store.finish(&self.swarm, |_| b"attested".to_vec()).unwrap()
    }

    /// Reads a chunk and compares it.
    pub(crate) fn read_chunk(&self, reader: &mut Reader, index: u32) -> Result<(), ReadError> {
        let range = self.layout().range(ChunkIndex(index));
        let mut at = range.start;
        while at < range.end {
            let part = reader.read(at..range.end)?.into_inner();
            assert_eq!(part[..], self.content[at as usize..][..part.len()], "wrong bytes at {at}");
            at += part.len() as u64;
        }
        Ok(())
    }

    pub(crate) fn read_all(&self, reader: &mut Reader) -> Result<(), ReadError> {
        (0..self.layout().count()).try_for_each(|index| self.read_chunk(reader, index))
    }
}

/// A child has this process's files open until its own program begins, the locks of folders among them: no store is
/// opened while one starts.
static STARTING: RwLock<()> = RwLock::new(());

/// Starts a child process.
pub(crate) fn start(command: &mut Command) -> io::Result<Child> {
    let _starting = STARTING.write().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// A store without bounds.
pub(crate) fn open(dir: &Path) -> Store {
    let _no_child_starts = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    Store::open(StoreConfig { reserve_bytes: 0, ..StoreConfig::new(dir) }).unwrap()
}

pub(crate) fn open_with_capacity(dir: &Path, bytes: usize) -> Store {
    let capacity_bytes = Some(bytes as u64);
    let _no_child_starts = STARTING.read().unwrap_or_else(PoisonError::into_inner);
    Store::open(StoreConfig { reserve_bytes: 0, capacity_bytes, ..StoreConfig::new(dir) }).unwrap()
}

/// Changes a byte in the largest file of the store, at this offset.
pub(crate) fn flip(dir: &Path, offset: u64) {
    use std::os::unix::fs::FileExt;
    let files = std::fs::read_dir(dir.join("blobs")).unwrap().map(|entry| entry.unwrap().path());
    let path = files.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}
