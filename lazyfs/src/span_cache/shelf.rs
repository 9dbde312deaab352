//! The folders of all layers: which are open, how much of the disk they take, and which go when that is too much.
//!
//! What is open stays. Of the others goes first what was used longest ago. When that was, the time of a layer's folder
//! says: it is set when the layer is opened and when it is closed. A layer's files go one by one, the head first:
//! without it the folder is no layer, and the next process sweeps the rest. The note that an index lies stays.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};
use shoal_proto::Digest;

use super::head::HEAD;
use super::layer::Layer;
use super::stored::Stored;
use super::verdict::REVOKED;
use crate::lock::lock;

/// A layer that somebody uses, perhaps. Locked while it is opened or its files are removed, so that none is opened
/// twice, and none waits for another.
pub(super) type Slot = Arc<tokio::sync::Mutex<Weak<Layer>>>;

/// Bytes that a write may take of the disk beyond its own: the blocks at both its ends, and some of the map of blocks.
const SLACK: u64 = 16 << 10;
/// `st_blocks` counts in these, whatever the filesystem does.
const STAT_BLOCK: u64 = 512;

#[derive(Debug)]
pub(super) struct Shelf {
    /// A folder for each layer.
    folder: PathBuf,
    slots: Mutex<HashMap<Digest, Slot>>,
    /// Used no more, but not all of it synced.
    closing: Mutex<Vec<Arc<Stored>>>,
    /// To be removed as soon as nobody uses them.
    unwanted: Mutex<HashSet<Digest>>,
    books: Mutex<Books>,
    /// Locked while folders are counted and removed.
    clearing: Mutex<()>,
}

/// Bytes of the disk.
#[derive(Debug)]
struct Books {
    limit: u64,
    /// What the folders took when they were counted last.
    counted: u64,
    /// What was written since that count began.
    written: u64,
    /// What is on its way to be written.
    promised: u64,
}

impl Books {
    fn used(&self) -> u64 {
        self.counted.saturating_add(self.written)
    }

    fn has_room(&self, len: u64) -> bool {
        self.used().saturating_add(self.promised).saturating_add(len) <= self.limit
    }
}

/// Room for bytes that are about to be written. Given back when they are, or never will be.
#[derive(Debug)]
pub(super) struct Promise {
    shelf: Arc<Shelf>,
    len: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut books = lock(&self.shelf.books);
        books.promised = books.promised.saturating_sub(self.len);
    }
}

/// The folder of a layer.
struct Counted {
    digest: Digest,
    /// Seconds since 1970, and nanoseconds.
    last_use: (i64, i64),
    bytes: u64,
}

impl Shelf {
    /// Sweeps what a removal left that was cut short. Blocks.
    pub(super) fn open(folder: PathBuf) -> Self {
        let shelf = Self {
            folder,
            slots: Mutex::default(),
            closing: Mutex::default(),
            unwanted: Mutex::default(),
            books: Mutex::new(Books { limit: u64::MAX, counted: 0, written: 0, promised: 0 }),
            clearing: Mutex::default(),
        };
        for layer in shelf.count() {
            if !shelf.holds(&layer.digest) {
                remove_files(&shelf.layer_folder(&layer.digest));
            }
        }
        shelf.count();
        shelf
    }

    pub(super) fn layer_folder(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{}-{}", digest.algorithm().name(), digest.hex()))
    }

    /// Whether a layer can be opened without asking anybody.
    pub(super) fn holds(&self, digest: &Digest) -> bool {
        self.layer_folder(digest).join(HEAD).exists()
    }

    /// Where a layer is, or will be. It is wanted.
    pub(super) fn slot(&self, digest: &Digest) -> Slot {
        lock(&self.unwanted).remove(digest);
        self.slots().entry(*digest).or_default().clone()
    }

    /// Layers that are open.
    pub(super) fn open_layers(&self) -> Vec<Arc<Layer>> {
        let slots: Vec<_> = self.slots().values().cloned().collect();
        slots.iter().filter_map(|slot| slot.try_lock().ok()?.upgrade()).collect()
    }

    /// A layer is used no more.
    pub(super) fn close_later(&self, layer: Arc<Stored>) {
        lock(&self.closing).push(layer);
    }

    /// Closes what is used no more. Blocks.
    pub(super) fn close(&self) {
        let closing = std::mem::take(&mut *lock(&self.closing));
        closing.iter().for_each(|layer| layer.close());
    }

    /// The same for one layer, before it is opened again or removed. Blocks.
    pub(super) fn close_one(&self, digest: &Digest) {
        let mut closing = lock(&self.closing);
        let of_it = closing.extract_if(.., |layer| layer.digest() == digest).collect::<Vec<_>>();
        drop(closing);
        of_it.iter().for_each(|layer| layer.close());
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Digest, Slot>> {
        let mut slots = lock(&self.slots);
        // Not those that nobody opens and nobody uses.
        slots.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().map_or(true, |layer| layer.strong_count() > 0)
        });
        slots
    }

    pub(super) fn set_limit(&self, bytes: u64) {
        lock(&self.books).limit = bytes;
    }

    pub(super) fn limit(&self) -> Option<u64> {
        Some(lock(&self.books).limit).filter(|limit| *limit != u64::MAX)
    }

    /// Bytes of the disk that the layers take, or a little more.
    pub(super) fn used(&self) -> u64 {
        lock(&self.books).used()
    }

    /// So many bytes were written.
    pub(super) fn wrote(&self, len: usize) {
        let mut books = lock(&self.books);
        books.written = books.written.saturating_add(len as u64).saturating_add(SLACK);
    }

    /// Room for bytes that nobody waits for; others may have to go for it. Blocks.
    pub(super) fn promise(self: &Arc<Self>, len: usize) -> Option<Promise> {
        let len = (len as u64).saturating_add(SLACK);
        if !self.take(len) {
            self.make_room(len);
            if !self.take(len) {
                return None;
            }
        }
        Some(Promise { shelf: self.clone(), len })
    }

    fn take(&self, len: u64) -> bool {
        let mut books = lock(&self.books);
        let room = books.has_room(len);
        if room {
            books.promised += len;
        }
        room
    }

    /// Removes a layer's files, now or when nobody uses it any more. Blocks.
    pub(super) fn remove(&self, digest: &Digest) {
        lock(&self.unwanted).insert(*digest);
        self.tidy();
    }

    /// Removes what nobody wants any more, and what is too much. To be called now and then. Blocks.
    pub(super) fn tidy(&self) {
        let unwanted: Vec<_> = lock(&self.unwanted).iter().copied().collect();
        if !unwanted.is_empty() {
            let _one_at_a_time = lock(&self.clearing);
            for digest in unwanted.iter().filter(|digest| self.clear(digest)) {
                lock(&self.unwanted).remove(digest);
            }
            self.count();
        }
        if !lock(&self.books).has_room(0) {
            self.make_room(0);
        }
    }

    /// Removes layers that nobody uses until there is room, or none of them is left.
    fn make_room(&self, len: u64) {
        let _one_at_a_time = lock(&self.clearing);
        let mut layers = self.count();
        layers.sort_by_key(|layer| (layer.last_use, layer.digest));
        // Not folders that hold nothing but a note.
        for layer in layers.iter().filter(|layer| self.holds(&layer.digest)) {
            if lock(&self.books).has_room(len) {
                return;
            }
            if self.clear(&layer.digest) {
                tracing::info!(layer = %layer.digest, bytes = layer.bytes, "removed for lack of room");
                let mut books = lock(&self.books);
                books.counted = books.counted.saturating_sub(layer.bytes);
            }
        }
    }

    /// Removes a layer's files unless it is used; says whether it did.
    fn clear(&self, digest: &Digest) -> bool {
        let slot = self.slots().entry(*digest).or_default().clone();
        // Who opens it holds the lock.
        let Ok(layer) = slot.try_lock() else { return false };
        if layer.strong_count() > 0 {
            return false;
        }
        self.close_one(digest);
        remove_files(&self.layer_folder(digest))
    }

    /// Sees what the layers take now.
    fn count(&self) -> Vec<Counted> {
        let before = lock(&self.books).written;
        let folders = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let layers: Vec<_> = folders.filter_map(|folder| count_folder(&folder.path())).collect();
        let mut books = lock(&self.books);
        books.counted = layers.iter().map(|layer| layer.bytes).sum();
        // What was written meanwhile may be in it or not.
        books.written -= before.min(books.written);
        layers
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.close();
    }
}

/// Notes that a layer is used. Only the order in which layers go hangs on it.
pub(super) fn note_use(folder: &Path) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    if let Err(error) = rustix::fs::utimensat(CWD, folder, &times, AtFlags::empty()) {
        tracing::debug!(folder = %folder.display(), %error, "cannot note that a layer is used");
    }
}

fn count_folder(folder: &Path) -> Option<Counted> {
    let (algorithm, hex) = folder.file_name()?.to_str()?.split_once('-')?;
    let digest = format!("{algorithm}:{hex}").parse().ok()?;
    let meta = fs::metadata(folder).ok()?;
    let files = fs::read_dir(folder).ok()?.filter_map(|file| Some(file.ok()?.metadata().ok()?.blocks()));
    let blocks = meta.blocks() + files.sum::<u64>();
    Some(Counted { digest, last_use: (meta.mtime(), meta.mtime_nsec()), bytes: blocks * STAT_BLOCK })
}

/// False if something but the note that an index lies is left.
fn remove_files(folder: &Path) -> bool {
    let removed = match fs::remove_file(folder.join(HEAD)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => remove_all_but_the_note(folder),
    };
    if let Err(error) = &removed {
        tracing::warn!(folder = %folder.display(), %error, "cannot remove a layer");
    }
    removed.is_ok()
}

fn remove_all_but_the_note(folder: &Path) -> io::Result<()> {
    let files = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        files => files?.collect::<Result<Vec<_>, _>>()?,
    };
    let (notes, files): (Vec<_>, Vec<_>) =
        files.iter().partition(|file| file.file_name() == OsStr::new(REVOKED));
    files.iter().try_for_each(|file| fs::remove_file(file.path()))?;
    if notes.is_empty() { fs::remove_dir(folder) } else { Ok(()) }
}
