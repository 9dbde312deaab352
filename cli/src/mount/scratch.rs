//! The folder in which one `shoal mount` keeps things until its end, and what is left when it was killed.
//!
//! The process that mounts and the one that serves both lock a file in it. Whoever gets that lock alone knows that both
//! are dead.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use shoal_lazyfs::mountinfo::{self, Mount};
use shoal_lazyfs::overlay;
use tempfile::TempDir;

/// Where: more is read than a folder in memory should hold.
const PLACE: &str = "/var/tmp";
const PREFIX: &str = "shoal-mount-";
const LOCK: &str = "lock";
/// Where the filesystem with the layers is mounted.
pub(crate) const LAYERS: &str = "fs";
/// Where layers are mounted on EROFS.
pub(crate) const EROFS: &str = "x";

/// Gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: TempDir,
    _alive: File,
}

impl Scratch {
    /// Clears first what dead processes left.
    pub(crate) fn new() -> anyhow::Result<Self> {
        for left in left_behind() {
            if let Err(error) = clear_if_dead(&left) {
                tracing::warn!(folder = %left.display(), %error, "cannot clear what a killed process left");
            }
        }
        let made = || loop {
            let prefix = format!("{PREFIX}{}-", std::process::id());
            // As the kernel names it in its list of mounts.
            let folder =
                tempfile::Builder::new().prefix(&prefix).tempdir_in(Path::new(PLACE).canonicalize()?)?;
            File::create_new(folder.path().join(LOCK))?;
            // Somebody may have found the file before it was locked.
            if let Some(alive) = hold(folder.path())? {
                fs::create_dir(folder.path().join(LAYERS))?;
                return io::Result::Ok(Self { folder, _alive: alive });
            }
        };
        made().with_context(|| format!("cannot make a folder in {PLACE}"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.path().join(LAYERS)
    }

    /// Unmounts what is mounted in the folder. Whoever uses it still has it.
    pub(crate) fn unmount_layers(&self) -> io::Result<()> {
        unmount_all(|mount| mount.at.starts_with(self.path()))
    }
}

/// Keeps others from clearing the folder, as long as what it returns. Nothing if they did already.
pub(crate) fn hold(folder: &Path) -> io::Result<Option<File>> {
    let path = folder.join(LOCK);
    let lock = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    lock.lock_shared()?;
    let is_there = fs::metadata(&path).is_ok_and(|found| lock.metadata().is_ok_and(|own| same(&found, &own)));
    Ok(is_there.then_some(lock))
}

fn same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Folders of this kind that root made: nobody else may choose what is removed here.
fn left_behind() -> Vec<PathBuf> {
    let all = Path::new(PLACE).canonicalize().and_then(fs::read_dir).into_iter().flatten().flatten();
    let named = all.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX));
    let own = named.filter(|entry| entry.metadata().is_ok_and(|found| found.is_dir() && found.uid() == 0));
    own.map(|entry| entry.path()).collect()
}

fn clear_if_dead(folder: &Path) -> io::Result<()> {
    let lock = File::open(folder.join(LOCK))?;
    if lock.try_lock().is_err() {
        return Ok(());
    }
    unmount(folder)?;
    fs::remove_dir_all(folder)
}

/// Unmounts whatever is mounted in the folder, or shows layers that are. It goes away when its last user does.
pub(crate) fn unmount(folder: &Path) -> io::Result<()> {
    let lower = format!("{}/", folder.display());
    let shows = |mount: &Mount| mount.is_overlay && mount.line.contains(&lower);
    unmount_all(|mount| mount.at.starts_with(folder) || shows(mount))
}

fn unmount_all(those: impl Fn(&Mount) -> bool) -> io::Result<()> {
    // What is mounted last lies over the others.
    for mount in mountinfo::mounts()?.iter().rev().filter(|mount| those(mount)) {
        overlay::unmount(&mount.at)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_holds_stays_and_what_nobody_does_goes() {
        let held = tempfile::tempdir().unwrap();
        assert!(hold(held.path()).unwrap().is_none());
        File::create_new(held.path().join(LOCK)).unwrap();
        let one = hold(held.path()).unwrap().unwrap();
        let other = hold(held.path()).unwrap().unwrap();
        drop(one);
        clear_if_dead(held.path()).unwrap();
        assert!(held.path().exists(), "the other one lives");
        drop(other);
        clear_if_dead(held.path()).unwrap();
        assert!(!held.path().exists());
    }
}
