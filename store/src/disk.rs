//! The files of the store: everything that changes the folder, except the index, goes through here.
//!
//! ```text
//! <dir>/lock               held by the one daemon that uses the folder
//! <dir>/index.redb         rows, see `rows`
//! <dir>/blobs/<id, hex>    a sparse file per blob, complete or not
//! ```
//! Files are named by a number and not by digest, so that a blob becomes complete by one row, without a rename.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use crate::OpenError;

#[derive(Debug)]
pub(crate) struct Disk {
    dir: PathBuf,
    blobs: PathBuf,
    /// Held as long as the store is open.
    _lock: File,
    #[cfg(test)]
    pub(crate) recorder: Option<std::sync::Arc<crate::power_loss::Recorder>>,
}

impl Disk {
    /// Makes the folder where needed and takes its lock.
    pub(crate) fn open(dir: &Path) -> Result<Self, OpenError> {
        let fail = |source| OpenError::Folder { dir: dir.to_owned(), source };
        let blobs = dir.join("blobs");
        // Cached images may be private.
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&blobs).map_err(fail)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(dir.join("lock"))
            .map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(OpenError::InUse { dir: dir.to_owned() }),
            Err(fs::TryLockError::Error(source)) => return Err(fail(source)),
        }
        Ok(Self {
            dir: dir.to_owned(),
            blobs,
            _lock: lock,
            #[cfg(test)]
            recorder: None,
        })
    }

    pub(crate) fn index_path(&self) -> PathBuf {
        self.dir.join("index.redb")
    }

    fn blob_path(&self, id: u64) -> PathBuf {
        self.blobs.join(format!("{id:016x}"))
    }

    /// The blobs' files: number and length. Files that the store never made are left alone.
    pub(crate) fn list(&self) -> io::Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.blobs)? {
            let entry = entry?;
            let name = entry.file_name();
            let id = name.to_str().filter(|name| name.len() == 16);
            if let Some(id) = id.and_then(|name| u64::from_str_radix(name, 16).ok()) {
                found.push((id, entry.metadata()?.len()));
            }
        }
        Ok(found)
    }

    pub(crate) fn create(&self, id: u64) -> io::Result<()> {
        #[cfg(test)]
        self.note(|| crate::power_loss::Event::Create(id))?;
        OpenOptions::new().create_new(true).write(true).open(self.blob_path(id)).map(drop)
    }

    pub(crate) fn open_blob(&self, id: u64) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.blob_path(id))
    }

    pub(crate) fn write_at(&self, _id: u64, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        self.note(|| crate::power_loss::Event::Write(_id, offset, bytes.to_vec()))?;
        file.write_all_at(bytes, offset)
    }

    /// Makes the file's data durable (fdatasync).
    pub(crate) fn sync(&self, _id: u64, file: &File) -> io::Result<()> {
        #[cfg(test)]
        self.note(|| crate::power_loss::Event::Sync(_id))?;
        file.sync_data()
    }

    /// Makes the creation and removal of files durable.
    pub(crate) fn sync_names(&self) -> io::Result<()> {
        #[cfg(test)]
        self.note(|| crate::power_loss::Event::SyncNames)?;
        File::open(&self.blobs)?.sync_all()
    }

    pub(crate) fn remove(&self, id: u64) -> io::Result<()> {
        #[cfg(test)]
        self.note(|| crate::power_loss::Event::Remove(id))?;
        match fs::remove_file(self.blob_path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// What a process without special rights may still write on this file system, in bytes.
    pub(crate) fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::fstatvfs(self._lock.as_fd())?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    #[cfg(test)]
    fn note(&self, event: impl FnOnce() -> crate::power_loss::Event) -> io::Result<()> {
        self.recorder.as_ref().map_or(Ok(()), |recorder| recorder.note(event()))
    }
}

/// Whether a write failed because there is no room left.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
