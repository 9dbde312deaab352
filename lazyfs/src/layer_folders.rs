//! Where layers are seen: on [EROFS](crate::erofs) where this machine has it, else on FUSE alone.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, join_all, ready};
use tokio::sync::Semaphore;

use crate::chain::PlacedLayer;
use crate::erofs::{self, ErofsMount, Mounter, Unfit};
use crate::fs::{EMPTY, LazyFs, SlotNumber, TAR_SUFFIX};
use crate::lock::lock;
use crate::{mountinfo, overlay};

/// A container waits no longer than this for a layer to be mounted; then FUSE shows it.
const MOUNTS: Duration = Duration::from_secs(5);
/// Layers that are mounted at a time: each needs memory for its image, and a process.
const AT_ONCE: usize = 4;

/// Why a layer is on FUSE alone.
#[derive(Debug, thiserror::Error)]
enum OnFuse {
    #[error("EROFS cannot tell {0}")]
    Unfit(#[from] Unfit),
    #[error("cannot write its image: {0}")]
    Image(io::Error),
    #[error("cannot mount it on EROFS: {0}")]
    Mount(io::Error),
    #[error("that takes longer than {MOUNTS:?}")]
    Slow,
    #[error("shutting down")]
    ShutDown,
}

/// Why layers have no folders.
#[derive(Debug, thiserror::Error)]
#[error("cannot prepare {} and {}: {error}", at.display(), images.display())]
pub struct FoldersError {
    at: PathBuf,
    images: PathBuf,
    error: io::Error,
}

/// Whether a layer is mounted, once that is known.
type Mounting = Shared<BoxFuture<'static, bool>>;

/// The folders of layers. Mounts among them outlast this process.
#[derive(Debug)]
pub struct LayerFolders {
    fs: Arc<LazyFs>,
    /// Where that is mounted.
    fuse: PathBuf,
    at: PathBuf,
    /// Where images lie until they are mounted.
    images: PathBuf,
    /// Nobody: FUSE alone.
    mounter: Option<Arc<dyn Mounter>>,
    at_once: Arc<Semaphore>,
    slots: Arc<Mutex<HashMap<SlotNumber, Mounting>>>,
}

impl LayerFolders {
    /// Layers of `fs`, which is mounted at `fuse`, are to be mounted in the folder `at`, and images to be kept in
    /// `images` meanwhile. What another process mounted there is found again. Without a mounter, or where this machine
    /// has no EROFS on files, layers are seen on FUSE alone. Blocks shortly.
    pub fn open(
        fs: Arc<LazyFs>,
        fuse: PathBuf,
        at: PathBuf,
        images: PathBuf,
        mounter: Option<Arc<dyn Mounter>>,
    ) -> Result<Self, FoldersError> {
        let failed = |error| FoldersError { at: at.clone(), images: images.clone(), error };
        let known = prepare(&at, &images).map_err(failed)?;
        let mounter = mounter.filter(|_| {
            let tried = erofs::try_out(&images, &at.join("try"));
            let why = tried.inspect_err(|why| tracing::info!(%why, "layers are shown by FUSE alone"));
            why.is_ok()
        });
        let slots = known.into_iter().map(|slot| (slot, known_to_be_mounted())).collect();
        let (at_once, slots) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(Mutex::new(slots)));
        Ok(Self { fs, fuse, at, images, mounter, at_once, slots })
    }

    /// Begins to mount a layer, if it can be.
    pub fn begin(&self, slot: SlotNumber) {
        drop(self.mounting(slot));
    }

    /// Mounts those of these layers that can be.
    pub async fn mount(&self, slots: impl IntoIterator<Item = SlotNumber>) {
        join_all(slots.into_iter().filter_map(|slot| self.mounting(slot))).await;
    }

    /// Where a layer's files are seen.
    pub fn folder(&self, slot: SlotNumber) -> PathBuf {
        let mounted = lock(&self.slots).get(&slot).and_then(|mounting| mounting.peek().copied());
        let on_erofs = self.mounter.is_some() && mounted == Some(true);
        if on_erofs { self.on_erofs(slot) } else { self.fuse.join(slot.0.to_string()) }
    }

    /// Whether a folder is a layer's.
    pub fn is_layer(&self, folder: &Path) -> bool {
        folder.starts_with(&self.fuse) || folder.starts_with(&self.at)
    }

    /// A folder without anything.
    pub fn empty(&self) -> PathBuf {
        self.fuse.join(EMPTY)
    }

    /// Begins at once to unmount all others; nobody has to wait for it. Whoever uses one still has it.
    pub fn retain(&self, needed: &HashSet<u32>) -> impl Future<Output = ()> + use<> {
        let mut slots = lock(&self.slots);
        let others = slots.iter_mut().filter(|(slot, _)| !needed.contains(&slot.0));
        // From now on, for whoever asks, they are not mounted; nor are they again before they are unmounted.
        let unmounting: Vec<_> = others
            .map(|(&slot, mounting)| {
                let (mounted, at, all) = (mounting.clone(), self.on_erofs(slot), self.slots.clone());
                *mounting = finished(async move {
                    mounted.await;
                    unmount(slot, at).await;
                    lock(&all).remove(&slot);
                    false
                });
                mounting.clone()
            })
            .collect();
        join_all(unmounting).map(drop)
    }

    fn on_erofs(&self, slot: SlotNumber) -> PathBuf {
        self.at.join(slot.0.to_string())
    }

    /// Nothing if this machine cannot do it, or the layer is not shown.
    fn mounting(&self, slot: SlotNumber) -> Option<Mounting> {
        let mounter = self.mounter.clone()?;
        let mut slots = lock(&self.slots);
        if let Some(known) = slots.get(&slot) {
            return Some(known.clone());
        }
        let placed = self.fs.slot(slot)?;
        let name = slot.0.to_string();
        let mount = ErofsMount {
            tar: self.fuse.join(format!("{name}{TAR_SUFFIX}")),
            image: self.images.join(name),
            at: self.on_erofs(slot),
        };
        let at_once = self.at_once.clone();
        let mounting = finished(async move {
            let image = mount.image.clone();
            let mounted = async {
                let _turn = at_once.acquire().await.map_err(|_| OnFuse::ShutDown)?;
                mount_one(placed, slot, mount, &*mounter).await
            };
            let mounted = tokio::time::timeout(MOUNTS, mounted).await.unwrap_or(Err(OnFuse::Slow));
            // The mount has it without its name.
            let _ = fs::remove_file(image);
            match &mounted {
                Ok(()) => {}
                Err(why @ OnFuse::Unfit(_)) => {
                    tracing::info!(slot = slot.0, %why, "a layer is on FUSE alone")
                }
                Err(why) => tracing::warn!(slot = slot.0, %why, "a layer is on FUSE alone"),
            }
            mounted.is_ok()
        });
        slots.insert(slot, mounting.clone());
        Some(mounting)
    }
}

/// A task of its own, which is finished even if nobody waits for it any more.
fn finished(work: impl Future<Output = bool> + Send + 'static) -> Mounting {
    let task = tokio::spawn(work);
    async move { task.await.unwrap_or(false) }.boxed().shared()
}

async fn mount_one(
    placed: Arc<PlacedLayer>,
    slot: SlotNumber,
    mount: ErofsMount,
    mounter: &dyn Mounter,
) -> Result<(), OnFuse> {
    let begun = Instant::now();
    let (file, at) = (mount.image.clone(), mount.at.clone());
    let written = tokio::task::spawn_blocking(move || {
        let image = erofs::image(&placed, id(&placed, slot))?;
        let written = fs::write(&file, &image);
        let made = written.and_then(|()| DirBuilder::new().recursive(true).mode(0o700).create(at));
        made.map(|()| image.len()).map_err(OnFuse::Image)
    });
    let bytes = written.await.map_err(|_| OnFuse::ShutDown)??;
    let made = begun.elapsed();
    mounter.mount(mount).await.map_err(OnFuse::Mount)?;
    tracing::debug!(slot = slot.0, bytes, ?made, mounted = ?begun.elapsed(), "a layer is on EROFS");
    Ok(())
}

/// Whether or not it is known to be mounted: a process that mounts may have been later than its deadline, or than its
/// successor.
async fn unmount(slot: SlotNumber, at: PathBuf) {
    let unmount = move || {
        while mountinfo::is_mounted(&at)? {
            overlay::unmount(&at)?;
        }
        match fs::remove_dir(&at) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    };
    if let Ok(Err(error)) = tokio::task::spawn_blocking(unmount).await {
        tracing::warn!(slot = slot.0, %error, "cannot unmount a layer");
    }
}

/// Another one for each slot.
fn id(placed: &PlacedLayer, slot: SlotNumber) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(placed.layer().digest().to_string().as_bytes()).update(&slot.0.to_le_bytes());
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    id
}

/// Makes the folders, clears what a crash left, and finds what is mounted.
fn prepare(at: &Path, images: &Path) -> io::Result<HashSet<SlotNumber>> {
    for folder in [at, images] {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    for left in fs::read_dir(images)? {
        fs::remove_file(left?.path())?;
    }
    // As the kernel names it.
    let at = at.canonicalize()?;
    let slot = |mount: mountinfo::Mount| {
        let name = mount.at.strip_prefix(&at).ok()?.to_str()?;
        name.parse().ok().map(SlotNumber)
    };
    Ok(mountinfo::mounts()?.into_iter().filter_map(slot).collect())
}

fn known_to_be_mounted() -> Mounting {
    let mounting = ready(true).boxed().shared();
    // Looked at, so that others can peek.
    let _ = mounting.clone().now_or_never();
    mounting
}
