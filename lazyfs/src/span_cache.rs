//! What is on this disk of layers: of each one its head, the spans that were read of its tar, and which these are.
//!
//! ```text
//! lock                        held by the one process that uses the folder
//! layers/sha256-…/head        the index without its windows
//! layers/sha256-…/tar         the uncompressed tar, sparse
//! layers/sha256-…/spans       which spans of it are there
//! layers/sha256-…/proved      the index whose DiffID the whole tar had
//! layers/sha256-…/revoked     the index whose DiffID it had not
//! ```
//! A folder with a head mounts without anything from outside.

mod error;
mod layer;
mod map;
mod retry;
mod verdict;

use std::collections::HashMap;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use shoal_proto::Digest;
use tokio::time::Instant;

use crate::index::{HEADER_LEN, Head, HeadError, Header};
use crate::source::{LayerSource, SourceError, Urgency};

pub use error::{CacheError, FillError, ReadError};
pub use layer::Layer;

const HEAD: &str = "head";
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
        let head = match read_head(&folder, digest) {
            Some(head) => head,
            None => self.fetch_head(digest, &folder).await?,
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

    async fn fetch_head(&self, digest: &Digest, folder: &Path) -> Result<Head, CacheError> {
        let read = |range: Range<u64>| {
            let (deadline, unanswered) =
                (Instant::now() + self.patience.deadline, SourceError::Unavailable(*digest));
            retry::until(deadline, unanswered, move || {
                self.source.index(digest, range.clone(), Urgency::Demand)
            })
        };
        let first = read(0..HEADER_LEN as u64).await?;
        let (first, _) = first.split_first_chunk().ok_or(HeadError::Header)?;
        let bytes = read(0..Header::decode(first)?.head_len()).await?;
        let (digest, folder) = (*digest, folder.to_owned());
        let stored = tokio::task::spawn_blocking(move || {
            let head = Head::decode(&bytes)?;
            if head.index.layer != digest {
                return Err(CacheError::OtherLayer(digest));
            }
            if verdict::was_revoked(&folder, head.id) {
                return Err(CacheError::Revoked(digest));
            }
            write_head(&folder, &bytes).map_err(|error| CacheError::Folder { folder, error })?;
            Ok(head)
        });
        stored.await.map_err(|_| CacheError::ShutDown)?
    }
}

/// The head on this disk, if there is a sound one.
fn read_head(folder: &Path, digest: &Digest) -> Option<Head> {
    let head = Head::decode(&fs::read(folder.join(HEAD)).ok()?);
    let head = head.inspect_err(|error| tracing::warn!(%digest, %error, "a stored index is damaged")).ok()?;
    (head.index.layer == *digest && !verdict::was_revoked(folder, head.id)).then_some(head)
}

fn write_head(folder: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let partial = folder.join("head.partial");
    let mut file = File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, folder.join(HEAD))?;
    File::open(folder)?.sync_all()
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
