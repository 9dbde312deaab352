//! One layer: bytes of its tar, from this disk or fetched span by span.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, try_join_all};
use shoal_proto::Digest;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::error::{FillError, ReadError};
use super::map::SpanMap;
use super::verdict::Verdict;
use super::{Patience, retry};
use crate::VerifiedSpan;
use crate::index::{Head, LayerIndex, SpanIndex};
use crate::source::{LayerSource, SourceError, Urgency};

#[cfg(test)]
mod failed_syncs;

/// Spans of one layer that are fetched at a time. With spans of 1 MiB that fills a line of 1 Gbit/s over 100 ms.
const MAX_FETCHES: usize = 16;
/// How often wrong bytes are asked for again: a source may then find others.
const MAX_WRONG: usize = 3;

type Fetched = Result<VerifiedSpan, ReadError>;

/// A fetch that has begun. All who wait for the span share it.
#[derive(Debug)]
struct Fetch {
    number: u64,
    urgency: Urgency,
    result: Shared<BoxFuture<'static, Fetched>>,
}

#[derive(Debug, Default)]
struct Fetches {
    begun: u64,
    running: HashMap<SpanIndex, Fetch>,
}

#[derive(Debug)]
pub struct Layer {
    head: Head,
    tar: File,
    map: SpanMap,
    fetches: Mutex<Fetches>,
    permits: Semaphore,
    source: Arc<dyn LayerSource>,
    patience: Patience,
    verdict: Verdict,
    last_demand: Mutex<Option<Instant>>,
    #[cfg(test)]
    syncs_fail: std::sync::atomic::AtomicBool,
}

impl Layer {
    pub(super) fn open(
        folder: &Path,
        head: Head,
        source: Arc<dyn LayerSource>,
        patience: Patience,
    ) -> io::Result<Self> {
        let tar = folder.join("tar");
        let tar = File::options().read(true).write(true).create(true).truncate(false).open(tar)?;
        tar.set_len(head.index.spans.tar_size())?;
        let map = SpanMap::open(&folder.join("spans"), head.id, head.index.spans.len())?;
        let permits = Semaphore::new(MAX_FETCHES);
        let (fetches, last_demand) = (Mutex::default(), Mutex::default());
        let verdict = Verdict::open(folder, head.id);
        Ok(Self {
            head,
            tar,
            map,
            fetches,
            permits,
            source,
            patience,
            verdict,
            last_demand,
            #[cfg(test)]
            syncs_fail: false.into(),
        })
    }

    pub fn digest(&self) -> &Digest {
        &self.head.index.layer
    }

    pub fn index(&self) -> &LayerIndex {
        &self.head.index
    }

    /// Spans that this process knows to be on this disk, and right.
    pub fn spans_present(&self) -> usize {
        self.map.checked_count()
    }

    /// Whether the whole tar was here once, and had the DiffID that the index names.
    pub fn is_proved(&self) -> bool {
        self.verdict.is_proved()
    }

    /// When a reader last had to wait for something that was not here.
    pub fn last_demand(&self) -> Option<Instant> {
        *self.last_demand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills `out` with bytes of the tar if all of them are on this disk and known to be right; says whether they
    /// are. Asks nobody.
    pub fn read_local(&self, start: u64, out: &mut [u8]) -> io::Result<bool> {
        if self.verdict.is_revoked() {
            return Err(io::Error::other(ReadError::Revoked { layer: *self.digest() }));
        }
        let range = start..start.saturating_add(out.len() as u64);
        let local = self.head.index.spans.covering(range).all(|span| self.map.is_checked(span));
        if local {
            self.tar.read_exact_at(out, start)?;
        }
        Ok(local)
    }

    /// Fills `out` with bytes of the tar; what is missing is fetched.
    pub async fn read(
        self: &Arc<Self>,
        start: u64,
        out: &mut [u8],
        urgency: Urgency,
    ) -> Result<(), ReadError> {
        if self.verdict.is_revoked() {
            return Err(ReadError::Revoked { layer: *self.digest() });
        }
        let end = start.saturating_add(out.len() as u64);
        let spans = self.head.index.spans.covering(start..end);
        let missing: Vec<SpanIndex> = spans.filter(|&span| !self.map.is_checked(span)).collect();
        let fetched = try_join_all(missing.iter().map(|&span| self.span(span, urgency))).await?;
        let on_disk = missing.is_empty() || missing.iter().all(|&span| self.map.is_checked(span));
        if on_disk {
            return self.tar.read_exact_at(out, start).map_err(|error| self.disk(error));
        }
        // The disk took not all of them: from memory, then.
        for span in self.head.index.spans.covering(start..end) {
            let range = self.head.index.spans.tar_range(span).unwrap_or_default();
            let (from, to) = (range.start.max(start), range.end.min(end));
            let place = out.get_mut(offset(start, from)..offset(start, to)).unwrap_or_default();
            match fetched.iter().find(|fetched| fetched.span() == span) {
                Some(fetched) => {
                    let bytes = fetched.bytes().get(offset(range.start, from)..offset(range.start, to));
                    place.copy_from_slice(bytes.unwrap_or_default());
                }
                None => self.tar.read_exact_at(place, from).map_err(|error| self.disk(error))?,
            }
        }
        Ok(())
    }

    /// Makes sure that a span is on this disk, for nobody in particular.
    pub async fn fill(self: &Arc<Self>, span: SpanIndex) -> Result<(), FillError> {
        if !self.map.is_checked(span) {
            self.span(span, Urgency::Fill).await?;
        }
        if self.map.is_checked(span) { Ok(()) } else { Err(FillError::DiskFull) }
    }

    /// Compares the tar, which must be whole, with the DiffID of the index, unless that was done before. If they
    /// differ although each span is what the index says, nobody reads this layer any more, and the source is told.
    /// Spans that this disk has lost are forgotten, and that is an error of the disk.
    pub async fn prove(self: &Arc<Self>) -> Result<(), FillError> {
        let layer = self.clone();
        let hashed = tokio::task::spawn_blocking(move || layer.hash().map_err(|error| layer.disk(error)));
        let hashed = hashed.await.unwrap_or(Err(ReadError::ShutDown { layer: *self.digest() }))?;
        let Some(got) = hashed else { return Ok(()) };
        let right = got == self.head.index.diff_id;
        let layer = self.clone();
        let noted = tokio::task::spawn_blocking(move || {
            let noted = if right { layer.verdict.prove() } else { layer.verdict.revoke() };
            if let Err(error) = noted {
                tracing::warn!(layer = %layer.digest(), %error, "cannot note whether an index is right");
            }
        });
        if !right {
            // Not after the note: a disk that hangs or is full must not keep it from being told.
            self.source.revoke(self.digest(), self.head.id).await;
        }
        noted.await.map_err(|_| ReadError::ShutDown { layer: *self.digest() })?;
        if right { Ok(()) } else { Err(FillError::DiffId { got }) }
    }

    /// The DiffID of the tar, from spans that match and outlast a loss of power; nothing if it is known to be right.
    /// Blocks.
    fn hash(&self) -> io::Result<Option<Digest>> {
        self.map.sync(|| self.sync_tar())?;
        let spans = &self.head.index.spans;
        let proved = self.is_proved();
        let (mut hasher, mut damaged) = (ring::digest::Context::new(&ring::digest::SHA256), 0);
        if !proved {
            for span in spans.indexes() {
                match self.read_stored(span) {
                    Some(span) => hasher.update(span.bytes()),
                    None => damaged += 1,
                }
            }
        }
        // A reader may have put a damaged one right by now, and another sync may have failed.
        let lost = damaged.max(spans.len().saturating_sub(self.map.checked_count()));
        if lost > 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{lost} spans are lost")));
        }
        let got = Digest::sha256(hasher.finish().as_ref().try_into().unwrap_or_default());
        Ok((!proved).then_some(got))
    }

    /// Puts the spans that were written so far where a loss of power leaves them. Blocks.
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

    /// A span, fetched once however many ask for it. One who is in more of a hurry than who asked before asks anew.
    fn span(self: &Arc<Self>, span: SpanIndex, urgency: Urgency) -> Shared<BoxFuture<'static, Fetched>> {
        if urgency == Urgency::Demand {
            *self.last_demand.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = fetches.running.get(&span)
            && running.urgency >= urgency
        {
            return running.result.clone();
        }
        fetches.begun += 1;
        let number = fetches.begun;
        let layer = self.clone();
        // A task of its own, so that it ends even if all who wait for it go away.
        let task = tokio::spawn(async move {
            let fetched = layer.obtain(span, urgency).await;
            layer.finished(span, number);
            fetched.inspect_err(|error| tracing::warn!(span = span.0, %error, "a span cannot be read"))
        });
        let layer = *self.digest();
        let result = async move { task.await.unwrap_or(Err(ReadError::ShutDown { layer })) }.boxed().shared();
        fetches.running.insert(span, Fetch { number, urgency, result: result.clone() });
        result
    }

    fn finished(&self, span: SpanIndex, number: u64) {
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        if fetches.running.get(&span).is_some_and(|fetch| fetch.number == number) {
            fetches.running.remove(&span);
        }
    }

    async fn obtain(self: &Arc<Self>, span: SpanIndex, urgency: Urgency) -> Fetched {
        if let Some(stored) = self.stored(span).await {
            return Ok(stored);
        }
        let deadline = Instant::now() + self.patience.deadline;
        let unavailable = || self.unavailable(span);
        let permit = tokio::time::timeout_at(deadline, self.permits.acquire()).await;
        let _permit = permit.map_err(|_| unavailable())?.map_err(|_| unavailable())?;
        let mut wrong = 0;
        loop {
            let (compressed, window) = self.fetch(span, urgency, deadline).await?;
            match self.decode(span, compressed, window).await {
                Err(error @ ReadError::Span { .. }) => {
                    wrong += 1;
                    if wrong == MAX_WRONG {
                        return Err(error);
                    }
                    tracing::warn!(span = span.0, %error, "asking again");
                }
                done => return done,
            }
        }
    }

    /// The span from this disk, if it is said to be there and is right.
    async fn stored(self: &Arc<Self>, span: SpanIndex) -> Option<VerifiedSpan> {
        let failed_syncs = self.map.failed_syncs();
        if !self.map.is_checked(span) && !self.map.is_stored(span) {
            return None;
        }
        let layer = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            layer.read_stored(span).inspect(|_| layer.map.found(span, failed_syncs))
        });
        read.await.ok().flatten()
    }

    /// The span from this disk if it is right; if not, it is forgotten. Blocks.
    fn read_stored(&self, span: SpanIndex) -> Option<VerifiedSpan> {
        let range = self.head.index.spans.tar_range(span)?;
        let mut bytes = vec![0; usize::try_from(range.end - range.start).ok()?];
        let read = self.tar.read_exact_at(&mut bytes, range.start).ok();
        let checked = read.and_then(|()| VerifiedSpan::check(self.index(), span, bytes.into()).ok());
        if checked.is_none() {
            tracing::warn!(layer = %self.digest(), span = span.0, "a stored span is damaged");
            self.map.forget(span);
        }
        checked
    }

    /// The span's compressed bytes and its window, side by side.
    async fn fetch(
        &self,
        span: SpanIndex,
        urgency: Urgency,
        deadline: Instant,
    ) -> Result<(Bytes, Bytes), ReadError> {
        let range = self.head.index.spans.compressed_range(span).unwrap_or_default();
        let unanswered = || SourceError::Unavailable(*self.digest());
        let compressed =
            retry::until(deadline, unanswered(), || self.source.layer(self.digest(), range.clone(), urgency));
        let window = async {
            let Some(range) = self.head.window_range(span) else { return Ok(Bytes::new()) };
            retry::until(deadline, unanswered(), || self.source.index(self.digest(), range.clone(), urgency))
                .await
        };
        let both = futures_util::future::try_join(compressed, window).await;
        both.map_err(|error| ReadError::Source { span: span.0, error })
    }

    async fn decode(self: &Arc<Self>, span: SpanIndex, compressed: Bytes, window: Bytes) -> Fetched {
        let layer = self.clone();
        let decoded = tokio::task::spawn_blocking(move || {
            let decoded = VerifiedSpan::decode(layer.index(), span, &compressed, &window);
            let decoded = decoded.map_err(|error| ReadError::Span { layer: *layer.digest(), error })?;
            layer.write(&decoded);
            Ok(decoded)
        });
        decoded.await.unwrap_or(Err(ReadError::ShutDown { layer: *self.digest() }))
    }

    /// A disk that is full makes reads slower, not wrong: who waits has the span in memory.
    fn write(&self, span: &VerifiedSpan) {
        let range = self.head.index.spans.tar_range(span.span()).unwrap_or_default();
        let failed_syncs = self.map.failed_syncs();
        match self.tar.write_all_at(span.bytes(), range.start) {
            Ok(()) => self.map.written(span.span(), failed_syncs),
            Err(error) => tracing::warn!(layer = %self.digest(), %error, "cannot keep a span"),
        }
    }

    fn unavailable(&self, span: SpanIndex) -> ReadError {
        ReadError::Source { span: span.0, error: SourceError::Unavailable(*self.digest()) }
    }

    fn disk(&self, error: io::Error) -> ReadError {
        ReadError::Disk { layer: *self.digest(), error: Arc::new(error) }
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        self.sync();
    }
}

/// How far `at` lies behind `start`; both lie within one read or one span.
fn offset(start: u64, at: u64) -> usize {
    usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX)
}
