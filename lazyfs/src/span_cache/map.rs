//! Which spans of a layer are on this disk: what the file says, and what this process has seen to be right.
//!
//! A span is written to the tar first, then the tar is synced, then its bit is set in the file: so a loss of power
//! forgets spans at worst. And what the file says counts only after the span's bytes were read and matched once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::index::{IndexId, SpanIndex};

const MAGIC: &[u8; 8] = b"SHOALSP1";
/// Magic and index id: spans of another index are other spans.
const HEADER: usize = 40;

#[derive(Debug)]
struct Stored {
    /// Header and bits, as they are in the file.
    bytes: Vec<u8>,
    file: File,
    /// Written to the tar, perhaps not synced.
    pending: Vec<SpanIndex>,
}

#[derive(Debug)]
pub(super) struct SpanMap {
    checked: Box<[AtomicU64]>,
    stored: Mutex<Stored>,
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
        Ok(Self { checked, stored: Mutex::new(Stored { bytes, file, pending: Vec::new() }) })
    }

    /// Whether the span's bytes in the tar are known to be right.
    pub(super) fn is_checked(&self, span: SpanIndex) -> bool {
        let word = self.checked.get(span.0 as usize / 64);
        word.is_some_and(|word| word.load(Ordering::Acquire) & bit(span) != 0)
    }

    /// Whether the file says that the span is there.
    pub(super) fn is_stored(&self, span: SpanIndex) -> bool {
        let stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        stored.bytes.get(byte_of(span)).is_some_and(|byte| byte & mask(span) != 0)
    }

    /// The span was found in the tar and matched.
    pub(super) fn found(&self, span: SpanIndex) {
        if let Some(word) = self.checked.get(span.0 as usize / 64) {
            word.fetch_or(bit(span), Ordering::Release);
        }
    }

    /// The span was written to the tar.
    pub(super) fn written(&self, span: SpanIndex) {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner).pending.push(span);
        self.found(span);
    }

    /// What the file says of the span is wrong.
    pub(super) fn forget(&self, span: SpanIndex) {
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(byte) = stored.bytes.get_mut(byte_of(span)) {
            *byte &= !mask(span);
        }
    }

    pub(super) fn checked_count(&self) -> usize {
        self.checked.iter().map(|word| word.load(Ordering::Relaxed).count_ones() as usize).sum()
    }

    /// Syncs the tar, then the bits of what had been written to it before.
    pub(super) fn sync(&self, tar: &File) -> io::Result<()> {
        let pending = {
            let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut stored.pending)
        };
        if pending.is_empty() {
            return Ok(());
        }
        // Without the lock: readers do not wait for a sync.
        tar.sync_data()?;
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        for span in pending {
            if let Some(byte) = stored.bytes.get_mut(byte_of(span)) {
                *byte |= mask(span);
            }
        }
        stored.file.write_all_at(&stored.bytes, 0)
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
