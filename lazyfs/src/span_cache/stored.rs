//! What is on this disk of one layer that is open: its head, the spans of its tar that are there, and the verdict.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use shoal_proto::Digest;

use super::map::SpanMap;
use super::shelf;
use super::verdict::Verdict;
use crate::VerifiedSpan;
use crate::index::{Head, LayerIndex, SpanIndex};
use crate::tar::TarStream;

/// What a whole tar says of its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    Right,
    /// It has this other DiffID.
    DiffId(Digest),
    /// It has other files.
    Tree,
}

/// Blocks.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) head: Head,
    pub(super) map: SpanMap,
    pub(super) verdict: Verdict,
    pub(super) tar: File,
    folder: PathBuf,
    #[cfg(test)]
    pub(super) syncs_fail: std::sync::atomic::AtomicBool,
}

impl Stored {
    pub(super) fn open(folder: &Path, head: Head) -> io::Result<Self> {
        let tar = folder.join("tar");
        let tar = File::options().read(true).write(true).create(true).truncate(false).open(tar)?;
        tar.set_len(head.index.spans.tar_size())?;
        let map = SpanMap::open(&folder.join("spans"), head.id, head.index.spans.len())?;
        let verdict = Verdict::open(folder, head.id);
        shelf::note_use(folder);
        Ok(Self {
            head,
            map,
            verdict,
            tar,
            folder: folder.to_owned(),
            #[cfg(test)]
            syncs_fail: false.into(),
        })
    }

    pub(super) fn index(&self) -> &LayerIndex {
        &self.head.index
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.head.index.layer
    }

    /// The span if it is right; if not, it is forgotten.
    pub(super) fn read(&self, span: SpanIndex) -> Option<VerifiedSpan> {
        let range = self.index().spans.tar_range(span)?;
        let mut bytes = vec![0; usize::try_from(range.end - range.start).ok()?];
        let read = self.tar.read_exact_at(&mut bytes, range.start).ok();
        let checked = read.and_then(|()| VerifiedSpan::check(self.index(), span, bytes.into()).ok());
        if checked.is_none() {
            tracing::warn!(layer = %self.digest(), span = span.0, "a stored span is damaged");
            self.map.forget(span);
        }
        checked
    }

    /// A disk that is full makes reads slower, not wrong: who waits has the span in memory.
    pub(super) fn write(&self, span: &VerifiedSpan) {
        let range = self.index().spans.tar_range(span.span()).unwrap_or_default();
        let failed_syncs = self.map.failed_syncs();
        match self.tar.write_all_at(span.bytes(), range.start) {
            Ok(()) => self.map.written(span.span(), failed_syncs),
            Err(error) => tracing::warn!(layer = %self.digest(), %error, "cannot keep a span"),
        }
    }

    /// What the tar says of the index, from spans that match and outlast a loss of power; nothing if it is known to be
    /// right.
    pub(super) fn judge(&self) -> io::Result<Option<Judgement>> {
        self.map.sync(|| self.sync_tar())?;
        let spans = &self.index().spans;
        let proved = self.verdict.is_proved();
        let (mut hasher, mut damaged) = (ring::digest::Context::new(&ring::digest::SHA256), 0);
        let mut tar = Ok(TarStream::new());
        if !proved {
            for span in spans.indexes() {
                match self.read(span) {
                    Some(span) => {
                        hasher.update(span.bytes());
                        tar = tar.and_then(|mut tar| tar.push(span.bytes()).map(|()| tar));
                    }
                    None => damaged += 1,
                }
            }
        }
        // A reader may have put a damaged one right by now, and another sync may have failed.
        let lost = damaged.max(spans.len().saturating_sub(self.map.checked_count()));
        if lost > 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{lost} spans are lost")));
        }
        if proved {
            return Ok(None);
        }
        let diff_id = Digest::sha256(hasher.finish().as_ref().try_into().unwrap_or_default());
        if diff_id != self.index().diff_id {
            return Ok(Some(Judgement::DiffId(diff_id)));
        }
        let tree = tar.and_then(TarStream::finish);
        let same = tree.is_ok_and(|tree| tree == self.index().tree);
        Ok(Some(if same { Judgement::Right } else { Judgement::Tree }))
    }

    /// Puts the spans that were written so far where a loss of power leaves them.
    pub(super) fn sync(&self) {
        if let Err(error) = self.map.sync(|| self.sync_tar()) {
            tracing::warn!(layer = %self.digest(), %error, "cannot sync a layer's tar");
        }
    }

    fn sync_tar(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.syncs_fail.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::ErrorKind::Other.into());
        }
        self.tar.sync_data()
    }

    /// The layer is used no more, up to now.
    pub(super) fn close(&self) {
        self.sync();
        shelf::note_use(&self.folder);
    }
}
