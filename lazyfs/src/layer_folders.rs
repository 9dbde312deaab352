//! Where layers are seen: on [EROFS](crate::erofs) where this machine has it, else on FUSE alone.

use std::collections::{HashMap, HashSet};
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, join_all, ready};

use crate::chain::PlacedLayer;
use crate::erofs::{self, ErofsMount, Mounter, Unfit};
use crate::fs::{EMPTY, LazyFs, SlotNumber, TAR_SUFFIX};
use crate::lock::lock;
use crate::{mountinfo, overlay};

/// A container waits no longer than this for a layer to be mounted; then FUSE shows it.
const MOUNTS: Duration = Duration::from_secs(5);

/// Why a layer is on FUSE alone.
#[derive(Debug, thiserror::Error)]
enum OnFuse {
    #[error("EROFS cannot tell {0}")]
    Unfit(#[from] Unfit),
    #[error("cannot write its image: {0}")]
    Image(io::Error),
    #[error("cannot mount it: {0}")]
    Mount(io::Error),
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
    /// Where images lie until they are mounted; a filesystem that EROFS takes files of.
    images: PathBuf,
    /// Nobody, once it is known that this machine cannot do it.
    mounter: Option<Arc<dyn Mounter>>,
    cannot: Arc<AtomicBool>,
    slots: Mutex<HashMap<SlotNumber, Mounting>>,
}

impl LayerFolders {
    /// Layers of `fs`, which is mounted at `fuse`, are to be mounted in the folder `at`, and images to be kept in
    /// `images` meanwhile. What another process mounted there is found again. Without a mounter nothing is mounted
    /// that is not yet.
    pub fn open(
        fs: Arc<LazyFs>,
        fuse: PathBuf,
        at: PathBuf,
        images: PathBuf,
        mounter: Option<Arc<dyn Mounter>>,
    ) -> Result<Self, FoldersError> {
        let known = prepare(&at, &images).map_err(|error| FoldersError {
            at: at.clone(),
            images: images.clone(),
            error,
        })?;
        let slots = known.into_iter().map(|slot| (slot, known_to_be(true))).collect();
        Ok(Self { fs, fuse, at, images, mounter, cannot: Arc::default(), slots: Mutex::new(slots) })
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
        let name = slot.0.to_string();
        let mounted = lock(&self.slots).get(&slot).and_then(|mounting| mounting.peek().copied());
        if mounted == Some(true) { self.at.join(name) } else { self.fuse.join(name) }
    }

    /// Whether a folder is a layer's.
    pub fn is_layer(&self, folder: &Path) -> bool {
        folder.starts_with(&self.fuse) || folder.starts_with(&self.at)
    }

    /// A folder without anything.
    pub fn empty(&self) -> PathBuf {
        self.fuse.join(EMPTY)
    }

    /// Unmounts all others. Whoever uses one that is mounted still has it.
    pub async fn retain(&self, needed: &HashSet<u32>) {
        let others = {
            let mut slots = lock(&self.slots);
            let others = slots.iter_mut().filter(|(slot, _)| !needed.contains(&slot.0));
            // From now on, for whoever asks, they are not mounted; nor are they again before they are unmounted.
            let others = others.map(|(&slot, mounting)| {
                *mounting = finished(unmount_one(mounting.clone(), slot, self.at.join(slot.0.to_string())));
                (slot, mounting.clone())
            });
            others.collect::<Vec<_>>()
        };
        for (slot, unmounting) in others {
            unmounting.await;
            lock(&self.slots).remove(&slot);
        }
    }

    /// Nothing if this machine cannot do it, or the layer is not shown.
    fn mounting(&self, slot: SlotNumber) -> Option<Mounting> {
        let mut slots = lock(&self.slots);
        if let Some(known) = slots.get(&slot) {
            return Some(known.clone());
        }
        let mounter = self.mounter.clone().filter(|_| !self.cannot.load(Ordering::Relaxed))?;
        let placed = self.fs.slot(slot)?;
        let name = slot.0.to_string();
        let mount = ErofsMount {
            image: self.images.join(&name),
            tar: self.fuse.join(format!("{name}{TAR_SUFFIX}")),
            at: self.at.join(name),
        };
        let (fs, cannot) = (self.fs.clone(), self.cannot.clone());
        let mounting = finished(async move {
            let Err(why) = mount_one(placed, slot, mount, &*mounter).await else { return true };
            // Unless it is shown no more: then nothing is wrong with this machine.
            let machine = matches!(why, OnFuse::Mount(_)) && fs.slot(slot).is_some();
            if machine && !cannot.swap(true, Ordering::Relaxed) {
                tracing::info!(%why, "layers are shown by FUSE alone; EROFS on files needs Linux 6.12");
            } else {
                tracing::debug!(slot = slot.0, %why, "a layer is shown by FUSE alone");
            }
            false
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

/// Returns that it is not mounted.
async fn unmount_one(mounting: Mounting, slot: SlotNumber, at: PathBuf) -> bool {
    if mounting.await {
        let unmount = move || overlay::unmount(&at).and_then(|_| fs::remove_dir(&at));
        if let Ok(Err(error)) = tokio::task::spawn_blocking(unmount).await {
            tracing::warn!(slot = slot.0, %error, "cannot unmount a layer");
        }
    }
    false
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
    let (file, made) = (mount.image.clone(), begun.elapsed());
    let mounted = tokio::time::timeout(MOUNTS, mounter.mount(mount)).await;
    // The mount has it without its name.
    let _ = fs::remove_file(file);
    mounted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(OnFuse::Mount)?;
    tracing::debug!(slot = slot.0, bytes, ?made, mounted = ?begun.elapsed(), "a layer is on EROFS");
    Ok(())
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
    slots_mounted(&at.canonicalize()?)
}

fn slots_mounted(at: &Path) -> io::Result<HashSet<SlotNumber>> {
    let slot = |mount: mountinfo::Mount| {
        let name = mount.at.strip_prefix(at).ok()?.to_str()?;
        name.parse().ok().map(SlotNumber)
    };
    Ok(mountinfo::mounts()?.into_iter().filter_map(slot).collect())
}

fn known_to_be(mounted: bool) -> Mounting {
    let mounting = ready(mounted).boxed().shared();
    // Looked at, so that others can peek.
    let _ = mounting.clone().now_or_never();
    mounting
}
