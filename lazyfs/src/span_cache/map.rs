//! Which spans of a layer are on this disk: what the file says, and what this process has seen to be right.
//!
//! A span is written to the tar first, then the tar is synced, then its bit is set in the file: so a loss of power
//! forgets spans at worst. And what the file says counts only after the span's bytes were read and matched once.
//! After a sync that failed, the kernel takes what it could not write for written, and may drop it: so a span is known
//! only if no sync failed since its bytes were written or read.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::index::{IndexId, SpanIndex};
use crate::lock::lock;

const MAGIC: &[u8; 8] = b"SHOALSP1";
/// Magic and index id: spans of another index are other spans.
const HEADER: usize = 40;

#[derive(Debug)]
struct Stored {
    /// Header and bits, as the next sync writes them.
    bytes: Vec<u8>,
    /// Written to the tar, perhaps not synced.
    pending: Vec<SpanIndex>,
    failed_syncs: FailedSyncs,
}

/// How many syncs of the tar had failed at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FailedSyncs(u64);

#[derive(Debug)]
pub(super) struct SpanMap {
    /// Changed only under the lock of `stored`.
    checked: Box<[AtomicU64]>,
    stored: Mutex<Stored>,
    /// Locked for a whole sync: who needs all to be synced waits for one that is under way.
    file: Mutex<File>,
}

impl SpanMap {
    /// Opens or makes the file. One that is not about this index is begun anew.
    pub(super) fn open(path: &Path, id: IndexId, spans: usize) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&id.0);
        bytes.resize(HEADER + spans.div_ceil(8), 0);
        let mut found = vec![0; bytes.len()];
        let same = file.metadata()?.len() == bytes.len() as u64
            && file.read_exact_at(&mut found, 0).is_ok()
            && found.get(..HEADER) == bytes.get(..HEADER);
        if same {
            bytes = found;
        } else {
            file.set_len(0)?;
            file.write_all_at(&bytes, 0)?;
            file.sync_all()?;
        }
        let checked = (0..spans.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let stored = Stored { bytes, pending: Vec::new(), failed_syncs: FailedSyncs::default() };
        Ok(Self { checked, stored: Mutex::new(stored), file: Mutex::new(file) })
    }

    /// Whether the span's bytes in the tar are known to be right.
    pub(super) fn is_checked(&self, span: SpanIndex) -> bool {
        let word = self.checked.get(span.0 as usize / 64);
        word.is_some_and(|word| word.load(Ordering::Acquire) & bit(span) != 0)
    }

    /// Whether the file says that the span is there.
    pub(super) fn is_stored(&self, span: SpanIndex) -> bool {
        self.stored().bytes.get(byte_of(span)).is_some_and(|byte| byte & mask(span) != 0)
    }

    /// To be asked before a span is read or written.
    pub(super) fn failed_syncs(&self) -> FailedSyncs {
        self.stored().failed_syncs
    }

    /// The span was found in the tar and matched. Does not count if a sync failed meanwhile.
    pub(super) fn found(&self, span: SpanIndex, before: FailedSyncs) {
        let stored = self.stored();
        if stored.failed_syncs == before {
            self.check(span);
        }
    }

    /// The span was written to the tar. Does not count if a sync failed meanwhile.
    pub(super) fn written(&self, span: SpanIndex, before: FailedSyncs) {
        let mut stored = self.stored();
        if stored.failed_syncs == before {
            stored.pending.push(span);
            self.check(span);
        }
    }

    /// What is known of the span is wrong.
    pub(super) fn forget(&self, span: SpanIndex) {
        self.forget_in(&mut self.stored(), span);
    }

    pub(super) fn checked_count(&self) -> usize {
        self.checked.iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
    }

    /// Syncs the tar, then the bits of what had been written to it before. If the tar cannot be synced, that is
    /// forgotten. Blocks.
    pub(super) fn sync(&self, sync_tar: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let file = lock(&self.file);
        let pending = std::mem::take(&mut self.stored().pending);
        if pending.is_empty() {
            return Ok(());
        }
        // Without the lock: readers do not wait for a sync.
        let synced = sync_tar();
        let mut stored = self.stored();
        match &synced {
            Ok(()) => {
                for &span in &pending {
                    if let Some(byte) = stored.bytes.get_mut(byte_of(span)) {
                        *byte |= mask(span);
                    }
                }
            }
            Err(_) => {
                stored.failed_syncs.0 += 1;
                // Of what was written meanwhile the kernel says no second time that it is lost.
                let meanwhile = std::mem::take(&mut stored.pending);
                for &span in pending.iter().chain(&meanwhile) {
                    self.forget_in(&mut stored, span);
                }
            }
        }
        let bytes = stored.bytes.clone();
        drop(stored);
        let noted = file.write_all_at(&bytes, 0).and_then(|()| file.sync_data());
        if synced.is_ok() && noted.is_err() {
            self.stored().pending.extend(pending);
        }
        synced.and(noted)
    }

    fn stored(&self) -> MutexGuard<'_, Stored> {
        lock(&self.stored)
    }

    fn check(&self, span: SpanIndex) {
        if let Some(word) = self.checked.get(span.0 as usize / 64) {
            word.fetch_or(bit(span), Ordering::Release);
        }
    }

    fn forget_in(&self, stored: &mut Stored, span: SpanIndex) {
        if let Some(byte) = stored.bytes.get_mut(byte_of(span)) {
            *byte &= !mask(span);
        }
        if let Some(word) = self.checked.get(span.0 as usize / 64) {
            word.fetch_and(!bit(span), Ordering::Release);
        }
    }
}

fn bit(span: SpanIndex) -> u64 {
    1 << (span.0 % 64)
}

fn byte_of(span: SpanIndex) -> usize {
    HEADER + span.0 as usize / 8
}

fn mask(span: SpanIndex) -> u8 {
    1 << (span.0 % 8)
}
