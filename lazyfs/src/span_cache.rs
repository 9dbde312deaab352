//! What is on this disk of layers: of each one its head, the spans that were read of its tar, and which these are.
//!
//! ```text
//! lock                        held by the one process that uses the folder
//! layers/sha256-…/head        the index without its windows, and which file it is of
//! layers/sha256-…/tar         the uncompressed tar, sparse
//! layers/sha256-…/spans       which spans of it are there
//! layers/sha256-…/proved      the index that the whole tar proved right, DiffID and files
//! layers/sha256-…/revoked     the one that it proved wrong
//! ```
//! A folder with a head mounts without anything from outside. Its time is when the layer was used last.

mod error;
mod head;
mod layer;
mod map;
mod metrics;
mod retry;
mod shelf;
mod span_fetch;
mod stored;
mod surroundings;
mod verdict;

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use shoal_proto::Digest;
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::source::LayerSource;
use head::HeadFetch;
use shelf::Shelf;
use stored::Stored;
use surroundings::Surroundings;

pub use error::{CacheError, FillError, ReadError};
pub use layer::Layer;
pub use metrics::{ReadCounts, WAIT_BOUNDS_MS};

/// How long it takes at most until what was fetched outlasts a loss of power.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// How often bytes are asked for while what comes is wrong: a source may then find others.
const MAX_WRONG: usize = 3;

#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// After which a reader gets an error if nobody could serve it.
    pub deadline: Duration,
}

impl Default for Patience {
    /// Programs take a read for hung later than that, and a daemon has started again by then.
    fn default() -> Self {
        Self { deadline: Duration::from_secs(30) }
    }
}

impl Patience {
    /// After which what nobody could serve is tried again.
    pub(crate) fn forgotten(&self) -> Duration {
        self.deadline.min(Duration::from_secs(1))
    }
}

/// The folder of all layers. One process uses it at a time.
#[derive(Debug)]
pub struct SpanCache {
    around: Surroundings,
    _lock: File,
}

impl SpanCache {
    /// Opens or makes the folder. Needs a tokio runtime, in which it keeps a task as long as the cache lives. Blocks.
    pub fn open(
        folder: &Path,
        source: Arc<dyn LayerSource>,
        patience: Patience,
    ) -> Result<Arc<Self>, CacheError> {
        let failed = |error| CacheError::Folder { folder: folder.to_owned(), error };
        let layers = folder.join("layers");
        // Private images may be in it.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&layers);
        made.map_err(failed)?;
        let lock = File::create(folder.join("lock")).map_err(failed)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            match errno {
                rustix::io::Errno::WOULDBLOCK => CacheError::InUse(folder.to_owned()),
                other => failed(other.into()),
            }
        })?;
        let shelf = Arc::new(Shelf::open(layers));
        let around =
            Surroundings { runtime: Handle::current(), source, patience, shelf, metrics: Arc::default() };
        let cache = Arc::new(Self { around, _lock: lock });
        tokio::spawn(keep_tidy(Arc::downgrade(&cache)));
        Ok(cache)
    }

    /// From now on the layers take so many bytes of the disk at most; without this call as many as they like. Layers
    /// that are not open go for it, those first that were used longest ago. If all are open nothing is fetched ahead,
    /// but what readers wait for is kept even then: it would be fetched again and again.
    pub fn limit_disk(&self, bytes: u64) {
        self.around.shelf.set_limit(bytes);
    }

    /// Bytes of the disk that the layers take, or a little more.
    pub fn disk_used(&self) -> u64 {
        self.around.shelf.used()
    }

    /// The bound on that, if there is one.
    pub fn disk_limit(&self) -> Option<u64> {
        self.around.shelf.limit()
    }

    /// What readers got since the cache was opened.
    pub fn counts(&self) -> ReadCounts {
        self.around.metrics.counts()
    }

    /// A layer from this disk, or, the first time, with its index from the source. Open as long as it is held.
    pub async fn layer(&self, digest: &Digest) -> Result<Arc<Layer>, CacheError> {
        self.open_layer(digest, true).await
    }

    /// A layer whose index is on this disk. Asks nobody.
    pub async fn known_layer(&self, digest: &Digest) -> Result<Arc<Layer>, CacheError> {
        self.open_layer(digest, false).await
    }

    async fn open_layer(&self, digest: &Digest, may_fetch: bool) -> Result<Arc<Layer>, CacheError> {
        let shelf = &self.around.shelf;
        let slot = shelf.slot(digest).lock_owned().await;
        if let Some(layer) = slot.upgrade() {
            // While somebody has it open there is no room for another index of it.
            return if layer.is_revoked() { Err(CacheError::Revoked(*digest)) } else { Ok(layer) };
        }
        let folder = shelf.layer_folder(digest);
        let claimed = self.around.source.claimed(digest);
        let (known, shelf, layer) = (folder.clone(), shelf.clone(), *digest);
        let known = tokio::task::spawn_blocking(move || {
            shelf.close_one(&layer);
            head::read(&known, &layer, claimed.as_ref())
        });
        let head = match known.await.map_err(|_| CacheError::ShutDown)? {
            Some(head) => head,
            None if !may_fetch => return Err(CacheError::NotHere(*digest)),
            None => HeadFetch { layer: digest, claimed, folder: &folder, around: &self.around }.run().await?,
        };
        let around = self.around.clone();
        let opened = tokio::task::spawn_blocking(move || {
            // Here, so that it is locked until it is open even if nobody waits any more.
            let mut slot = slot;
            let stored = Stored::open(&folder, head).map_err(|error| CacheError::Folder { folder, error })?;
            let layer = Arc::new(Layer::new(stored, around));
            *slot = Arc::downgrade(&layer);
            Ok(layer)
        });
        opened.await.map_err(|_| CacheError::ShutDown)?
    }

    /// Whether the index of a layer is on this disk.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.around.shelf.holds(digest)
    }

    /// Frees what a layer takes of the disk, now or as soon as it is not open any more.
    pub async fn remove(&self, digest: &Digest) -> Result<(), CacheError> {
        let (shelf, digest) = (self.around.shelf.clone(), *digest);
        tokio::task::spawn_blocking(move || shelf.remove(&digest)).await.map_err(|_| CacheError::ShutDown)
    }

    /// Puts everything that was read so far where a loss of power leaves it. Blocks.
    pub fn sync(&self) {
        for layer in self.around.shelf.open_layers() {
            layer.sync();
        }
        self.around.shelf.close();
    }
}

async fn keep_tidy(cache: Weak<SpanCache>) {
    let mut tick = tokio::time::interval_at(Instant::now() + SYNC_EVERY, SYNC_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(cache) = cache.upgrade() else { return };
        let tidied = tokio::task::spawn_blocking(move || {
            cache.sync();
            cache.around.shelf.tidy();
        });
        if tidied.await.is_err() {
            return;
        }
    }
}
