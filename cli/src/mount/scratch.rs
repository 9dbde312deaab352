//! The folder in which one `shoal mount` keeps things until its end, and what is left when it was killed.
//!
//! The process that mounts and the one that serves both lock a file in it. Whoever gets that lock alone knows that both
//! are dead.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use shoal_lazyfs::overlay;
use tempfile::TempDir;

/// Where: more is read than a folder in memory should hold.
const PLACE: &str = "/var/tmp";
const PREFIX: &str = "shoal-mount-";
const LOCK: &str = "lock";
/// Where the layers are mounted.
const LAYERS: &str = "fs";

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
            let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(PLACE)?;
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
    let all = fs::read_dir(PLACE).into_iter().flatten().flatten();
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
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    // What is mounted last lies over the others.
    for at in shown_from(folder, &mounts).into_iter().rev() {
        overlay::unmount(&at)?;
    }
    Ok(())
}

/// Where, in the kernel's list of mounts (proc(5), `mountinfo`).
fn shown_from(folder: &Path, mounts: &str) -> Vec<PathBuf> {
    let lower = format!("{}/", folder.display());
    let of_folder = |line: &&str| {
        let of_layers = line.contains(" - overlay ") && line.contains(&lower);
        of_layers || line.split(' ').nth(4).is_some_and(|at| Path::new(at).starts_with(folder))
    };
    let places = mounts.lines().filter(of_folder).filter_map(|line| line.split(' ').nth(4));
    places.map(|place| PathBuf::from(unescaped(place))).collect()
}

/// The kernel writes white space and backslashes as a backslash and three octal digits.
fn unescaped(place: &str) -> String {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(place.to_owned(), |place, (written, meant)| place.replace(written, meant))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_shows_layers_from_there_is_found() {
        let mounts = "\
            29 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
            60 29 0:50 / /var/tmp/shoal-mount-7-aB/fs ro,nosuid - fuse.shoal shoal ro\n\
            61 29 0:51 / /mnt/with\\040blank ro - overlay shoal ro,lowerdir=/var/tmp/shoal-mount-7-aB/fs/0:/x\n\
            62 29 0:52 / /mnt/other ro - overlay shoal ro,lowerdir=/var/tmp/shoal-mount-7-aBc/fs/0\n\
            63 29 0:53 / /var/tmp/shoal-mount-7-aBc/fs ro - fuse.shoal shoal ro\n";
        let found = shown_from(Path::new("/var/tmp/shoal-mount-7-aB"), mounts);
        assert_eq!(found, [Path::new("/var/tmp/shoal-mount-7-aB/fs"), Path::new("/mnt/with blank")]);
    }

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
