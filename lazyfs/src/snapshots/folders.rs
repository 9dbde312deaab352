//! The folders of snapshots that are no shown layers: `<number>/fs` and `<number>/work`.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::SnapshotError;

/// What a folder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// Bytes on disk.
    pub(super) size: u64,
    pub(super) files: u64,
}

#[derive(Debug)]
pub(super) struct Folders {
    root: PathBuf,
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> SnapshotError + '_ {
    |error| SnapshotError::Folder { path: path.to_owned(), error }
}

impl Folders {
    /// Makes the folder of them all. Others than root have no business there: set-id programs of images are in it.
    pub(super) fn open(root: PathBuf) -> Result<Self, SnapshotError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(failed(&root))?;
        Ok(Self { root })
    }

    pub(super) fn upper(&self, id: u64) -> PathBuf {
        self.root.join(id.to_string()).join("fs")
    }

    pub(super) fn work(&self, id: u64) -> PathBuf {
        self.root.join(id.to_string()).join("work")
    }

    /// The upper folder is what a container sees as the mode and owner of `/`; the owner is that of the layer below.
    pub(super) fn make(&self, id: u64, below: Option<&Path>) -> Result<(), SnapshotError> {
        let made = || {
            // Whatever this process leaves out of the modes of new files: containers see these.
            let make = |path: &Path, mode| {
                fs::create_dir(path)?;
                fs::set_permissions(path, fs::Permissions::from_mode(mode))
            };
            make(&self.root.join(id.to_string()), 0o700)?;
            make(&self.work(id), 0o711)?;
            let upper = self.upper(id);
            make(&upper, 0o755)?;
            if let Some(below) = below {
                let below = fs::metadata(below)?;
                std::os::unix::fs::chown(&upper, Some(below.uid()), Some(below.gid()))?;
            }
            Ok(())
        };
        made().map_err(failed(&self.root)).inspect_err(|_| self.remove(id))
    }

    /// Puts all that was unpacked so far where a loss of power leaves it.
    pub(super) fn sync(&self) -> Result<(), SnapshotError> {
        let synced = File::open(&self.root).and_then(|root| Ok(rustix::fs::syncfs(root)?));
        synced.map_err(failed(&self.root))
    }

    pub(super) fn remove(&self, id: u64) {
        remove(&self.root.join(id.to_string()));
    }

    /// What has no row.
    pub(super) fn unknown(&self, known: &HashSet<u64>) -> Result<Vec<PathBuf>, SnapshotError> {
        let mut unknown = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(failed(&self.root))? {
            let path = entry.map_err(failed(&self.root))?.path();
            let id = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            if id.is_none_or(|id| !known.contains(&id)) {
                unknown.push(path);
            }
        }
        Ok(unknown)
    }

    /// Files with several names count once. What vanishes meanwhile does not count.
    pub(super) fn usage(&self, id: u64) -> Usage {
        let (mut usage, mut seen) = (Usage::default(), HashSet::new());
        let mut todo = vec![self.upper(id)];
        while let Some(path) = todo.pop() {
            let Ok(found) = fs::symlink_metadata(&path) else { continue };
            if !seen.insert((found.dev(), found.ino())) {
                continue;
            }
            usage.files += 1;
            usage.size += found.blocks() * 512;
            if found.is_dir() {
                let entries = fs::read_dir(&path).into_iter().flatten();
                todo.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
            }
        }
        usage
    }
}

/// Removes a snapshot's folder that has no row any more; that takes as long as it has files. What cannot be removed, as
/// files that a container made immutable, keeps nothing else from going on; the next cleanup tries again.
pub(super) fn remove(path: &Path) {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(folder = %path.display(), %error, "cannot remove what no snapshot needs");
        }
        _ => {}
    }
}
