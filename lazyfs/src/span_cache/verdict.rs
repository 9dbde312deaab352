//! What was found when a layer was whole: that its tar is what its index says, or that the index lies.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::index::IndexId;

#[derive(Debug)]
pub(super) struct Verdict {
    folder: PathBuf,
    id: IndexId,
    proved: AtomicBool,
    revoked: AtomicBool,
}

const PROVED: &str = "proved";
pub(super) const REVOKED: &str = "revoked";

impl Verdict {
    pub(super) fn open(folder: &Path, id: IndexId) -> Self {
        let proved = AtomicBool::new(says(folder, PROVED, id));
        let revoked = AtomicBool::new(says(folder, REVOKED, id));
        Self { folder: folder.to_owned(), id, proved, revoked }
    }

    pub(super) fn is_proved(&self) -> bool {
        self.proved.load(Ordering::Relaxed)
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Acquire)
    }

    /// Blocks.
    pub(super) fn prove(&self) -> io::Result<()> {
        self.proved.store(true, Ordering::Relaxed);
        self.note(PROVED)
    }

    /// Holds at once, whether it can be written or not. Blocks.
    pub(super) fn revoke(&self) -> io::Result<()> {
        self.revoked.store(true, Ordering::Release);
        self.note(REVOKED)
    }

    fn note(&self, name: &str) -> io::Result<()> {
        let mut file = File::create(self.folder.join(name))?;
        file.write_all(&self.id.0)?;
        file.sync_all()
    }
}

/// Whether an index was found to lie, by this process or one before.
pub(super) fn was_revoked(folder: &Path, id: IndexId) -> bool {
    says(folder, REVOKED, id)
}

fn says(folder: &Path, name: &str, id: IndexId) -> bool {
    fs::read(folder.join(name)).is_ok_and(|bytes| bytes == id.0)
}
