//! What is on this disk of layers: of each one its head, the spans that were read of its tar, and which these are.
//!
//! ```text
//! lock                        held by the one process that uses the folder
//! layers/sha256-…/head        the index without its windows, and which file it is of
//! layers/sha256-…/tar         the uncompressed tar, sparse
//! layers/sha256-…/spans       which spans of it are there
//! layers/sha256-…/proved      the index whose DiffID the whole tar had
//! layers/sha256-…/revoked     the index whose DiffID it had not
//! ```
//! A folder with a head mounts without anything from outside.

mod error;
mod head;
mod layer;
mod map;
mod retry;
mod verdict;

use std::collections::HashMap;
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use shoal_proto::Digest;
use tokio::time::Instant;

use crate::source::LayerSource;
use head::{HEAD, HeadFetch};

pub use error::{CacheError, FillError, ReadError};
pub use layer::Layer;

/// How long it takes at most until what was fetched outlasts a loss of power.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// A layer that somebody uses, perhaps. Locked while it is opened, so that none is opened twice, and none waits for
/// another.
type Slot = Arc<tokio::sync::Mutex<Weak<Layer>>>;

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

/// The folder of all layers. One process uses it at a time.
#[derive(Debug)]
pub struct SpanCache {
    folder: PathBuf,
    source: Arc<dyn LayerSource>,
    patience: Patience,
    layers: Mutex<HashMap<Digest, Slot>>,
    _lock: File,
}

impl SpanCache {
    /// Opens or makes the folder. Needs a tokio runtime, in which it keeps a task as long as the cache lives.
    pub fn open(
        folder: &Path,
        source: Arc<dyn LayerSource>,
        patience: Patience,
    ) -> Result<Arc<Self>, CacheError> {
        let failed = |error| CacheError::Folder { folder: folder.to_owned(), error };
        // Private images may be in it.
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder.join("layers"));
        made.map_err(failed)?;
        let lock = File::create(folder.join("lock")).map_err(failed)?;
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            match errno {
                rustix::io::Errno::WOULDBLOCK => CacheError::InUse(folder.to_owned()),
                other => failed(other.into()),
            }
        })?;
        let cache = Arc::new(Self {
            folder: folder.to_owned(),
            source,
            patience,
            layers: Mutex::default(),
            _lock: lock,
        });
        tokio::spawn(keep_syncing(Arc::downgrade(&cache)));
        Ok(cache)
    }

    /// A layer from this disk, or, the first time, with its index from the source.
    pub async fn layer(&self, digest: &Digest) -> Result<Arc<Layer>, CacheError> {
        let slot = self.known().entry(*digest).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(layer) = slot.upgrade() {
            return Ok(layer);
        }
        let folder = self.layer_folder(digest);
        let claimed = self.source.claimed(digest);
        let head = match head::read(&folder, digest, claimed.as_ref()) {
            Some(head) => head,
            None => {
                let deadline = Instant::now() + self.patience.deadline;
                let (source, folder) = (&*self.source, &*folder);
                HeadFetch { source, layer: digest, claimed, folder, deadline }.run().await?
            }
        };
        let opened = Layer::open(&folder, head, self.source.clone(), self.patience);
        let layer = Arc::new(opened.map_err(|error| CacheError::Folder { folder, error })?);
        *slot = Arc::downgrade(&layer);
        Ok(layer)
    }

    /// Whether the index of a layer is on this disk.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.layer_folder(digest).join(HEAD).exists()
    }

    /// Puts everything that was read so far where a loss of power leaves it. Blocks.
    pub fn sync(&self) {
        let slots: Vec<_> = self.known().values().cloned().collect();
        for layer in slots.iter().filter_map(|slot| slot.try_lock().ok()?.upgrade()) {
            layer.sync();
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Digest, Slot>> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody opens and nobody uses.
        layers.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().map_or(true, |layer| layer.strong_count() > 0)
        });
        layers
    }

    fn layer_folder(&self, digest: &Digest) -> PathBuf {
        self.folder.join("layers").join(format!("{}-{}", digest.algorithm().name(), digest.hex()))
    }
}

async fn keep_syncing(cache: Weak<SpanCache>) {
    let mut tick = tokio::time::interval_at(Instant::now() + SYNC_EVERY, SYNC_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(cache) = cache.upgrade() else { return };
        if tokio::task::spawn_blocking(move || cache.sync()).await.is_err() {
            return;
        }
    }
}
