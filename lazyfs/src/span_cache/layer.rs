//! One layer: bytes of its tar, from this disk or fetched span by span.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, OnceLock};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, ready, try_join_all};
use shoal_proto::Digest;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::error::{FillError, ReadError};
use super::metrics::Metrics;
use super::span_fetch::SpanFetch;
use super::stored::{Judgement, Stored};
use super::surroundings::Surroundings;
use crate::VerifiedSpan;
use crate::index::{IndexId, LayerIndex, SpanIndex};
use crate::lock::lock;
use crate::source::{SourceError, Urgency};
use crate::tree::{Extent, Kind, Tree};

#[cfg(test)]
mod failed_syncs;

/// Spans of one layer that are fetched at a time for readers. With spans of 1 MiB that fills a line of 1 Gbit/s over
/// 100 ms.
const DEMAND: usize = 16;
/// The same for those that nobody waited for when they were asked for: they take no reader's place.
const AHEAD: usize = 8;

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
    /// What nobody served by the deadline to who waited for it, and when that was: only of late.
    unserved: HashMap<SpanIndex, (Instant, ReadError)>,
}

#[derive(Debug)]
pub struct Layer {
    stored: Arc<Stored>,
    fetches: Mutex<Fetches>,
    demand: Semaphore,
    ahead: Semaphore,
    last_demand: Mutex<Option<Instant>>,
    /// See [`Self::parts`]; found when somebody asks.
    parts: OnceLock<Box<[Extent]>>,
    around: Surroundings,
}

impl Layer {
    pub(super) fn new(stored: Stored, around: Surroundings) -> Self {
        Self {
            stored: Arc::new(stored),
            fetches: Mutex::default(),
            demand: Semaphore::new(DEMAND),
            ahead: Semaphore::new(AHEAD),
            last_demand: Mutex::default(),
            parts: OnceLock::new(),
            around,
        }
    }

    pub fn digest(&self) -> &Digest {
        self.stored.digest()
    }

    pub fn index(&self) -> &LayerIndex {
        self.stored.index()
    }

    /// Where the tar holds bytes of files, in order.
    pub(crate) fn parts(&self) -> &[Extent] {
        self.parts.get_or_init(|| parts(&self.index().tree))
    }

    pub(crate) fn index_id(&self) -> IndexId {
        self.stored.head.id
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.around.metrics
    }

    /// Spans that this process knows to be on this disk, and right.
    pub fn spans_present(&self) -> usize {
        self.stored.map.checked_count()
    }

    /// Whether a span is on this disk, found right or not looked at since this process began.
    pub(crate) fn has(&self, span: SpanIndex) -> bool {
        let map = &self.stored.map;
        map.is_checked(span) || map.is_stored(span)
    }

    /// Bytes of the tar that are on this disk, found right or not looked at since this process began.
    pub fn local_bytes(&self) -> u64 {
        let spans = &self.index().spans;
        let here = spans.indexes().filter(|&span| self.has(span));
        here.filter_map(|span| spans.tar_range(span)).map(|range| range.end - range.start).sum()
    }

    /// Whether the whole tar was here once, and had the DiffID that the index names.
    pub fn is_proved(&self) -> bool {
        self.stored.verdict.is_proved()
    }

    /// Whether its tar turned out not to be what its index says. Then it is read no more.
    pub fn is_revoked(&self) -> bool {
        self.stored.verdict.is_revoked()
    }

    /// When a reader last had to wait for something that was not here.
    pub fn last_demand(&self) -> Option<Instant> {
        *lock(&self.last_demand)
    }

    /// Fills `out` with bytes of the tar if all of them are on this disk and known to be right; says whether they
    /// are. Asks nobody. Blocks as long as this disk does.
    pub fn read_local(&self, start: u64, out: &mut [u8]) -> Result<bool, ReadError> {
        if self.is_revoked() {
            return Err(ReadError::Revoked { layer: *self.digest() });
        }
        let range = start..start.saturating_add(out.len() as u64);
        let local = self.index().spans.covering(range).all(|span| self.stored.map.is_checked(span));
        if local {
            self.stored.tar.read_exact_at(out, start).map_err(|error| self.disk(error))?;
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
        if self.is_revoked() {
            return Err(ReadError::Revoked { layer: *self.digest() });
        }
        let end = start.saturating_add(out.len() as u64);
        let spans = &self.index().spans;
        if end > spans.tar_size() {
            return Err(self.disk(io::ErrorKind::UnexpectedEof.into()));
        }
        let missing = spans.covering(start..end).filter(|&span| !self.stored.map.is_checked(span));
        let fetched = try_join_all(missing.map(|span| self.span(span, urgency))).await?;
        // What was fetched comes from memory, whether or not the disk took it.
        for span in spans.covering(start..end) {
            let range = spans.tar_range(span).unwrap_or_default();
            let (from, to) = (range.start.max(start), range.end.min(end));
            let place = out.get_mut(offset(start, from)..offset(start, to)).unwrap_or_default();
            match fetched.iter().find(|fetched| fetched.span() == span) {
                Some(fetched) => {
                    let bytes = fetched.bytes().get(offset(range.start, from)..offset(range.start, to));
                    place.copy_from_slice(bytes.unwrap_or_default());
                }
                None => place.copy_from_slice(&self.read_disk(from..to).await?),
            }
        }
        Ok(())
    }

    async fn read_disk(&self, range: Range<u64>) -> Result<Vec<u8>, ReadError> {
        let stored = self.stored.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = vec![0; offset(range.start, range.end)];
            stored.tar.read_exact_at(&mut bytes, range.start).map(|()| bytes)
        });
        let read = read.await.map_err(|_| ReadError::ShutDown { layer: *self.digest() })?;
        read.map_err(|error| self.disk(error))
    }

    /// Begins to fetch the span after the one in which `read` ends, if the one before that is here and all three belong
    /// to `file`, a range of the tar: somebody reads on then. The cache's bound holds for it.
    pub(crate) fn read_ahead(self: &Arc<Self>, read: &Range<u64>, file: &Range<u64>) {
        let (spans, map) = (&self.index().spans, &self.stored.map);
        let of_file = |at: u64| file.contains(&at).then(|| spans.covering(at..at + 1).next()).flatten();
        let Some(span) = self.last_of(read) else { return };
        let next = of_file(span.end).filter(|&next| !map.is_checked(next));
        let before = span.start.checked_sub(1).and_then(of_file);
        if let (Some(next), true) = (next, before.is_some_and(|before| map.is_checked(before))) {
            let layer = self.clone();
            // If it fails, the reader that comes there is told.
            self.around.runtime.spawn(async move { layer.keep(next, Urgency::Prefetch).await });
        }
    }

    /// The same for what was here already: only a read that comes from one span into the next is of somebody who
    /// reads on, for one span is many reads.
    pub(crate) fn read_on(self: &Arc<Self>, read: &Range<u64>, file: &Range<u64>) {
        if self.last_of(read).is_some_and(|span| read.contains(&span.start)) {
            self.read_ahead(read, file);
        }
    }

    /// The part of the tar that is the last span of a range.
    fn last_of(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let spans = &self.index().spans;
        spans.covering(range.end.checked_sub(1)?..range.end).next().and_then(|span| spans.tar_range(span))
    }

    /// Makes sure that a span is on this disk, for nobody in particular. The cache's bound holds for it.
    pub async fn fill(self: &Arc<Self>, span: SpanIndex) -> Result<(), FillError> {
        self.keep(span, Urgency::Fill).await
    }

    async fn keep(self: &Arc<Self>, span: SpanIndex, urgency: Urgency) -> Result<(), FillError> {
        if self.stored.map.is_checked(span) {
            return Ok(());
        }
        let range = self.index().spans.tar_range(span).unwrap_or_default();
        let (shelf, len) = (self.around.shelf.clone(), offset(range.start, range.end));
        let promise = tokio::task::spawn_blocking(move || shelf.promise(len));
        let promise = promise.await.map_err(|_| ReadError::ShutDown { layer: *self.digest() })?;
        let _promise = promise.ok_or(FillError::NoRoom)?;
        self.span(span, urgency).await?;
        if self.stored.map.is_checked(span) { Ok(()) } else { Err(FillError::DiskFull) }
    }

    /// Compares the tar, which must be whole, with what the index says, its DiffID and its files, unless that was done
    /// before. If they differ although each span is right, nobody reads this layer any more, and the source is told.
    /// Spans that this disk has lost are forgotten, and that is an error of the disk.
    pub async fn prove(self: &Arc<Self>) -> Result<(), FillError> {
        let shut_down = |_| ReadError::ShutDown { layer: *self.digest() };
        let stored = self.stored.clone();
        let judged = tokio::task::spawn_blocking(move || stored.judge()).await.map_err(shut_down)?;
        let Some(judgement) = judged.map_err(|error| self.disk(error))? else { return Ok(()) };
        let right = judgement == Judgement::Right;
        let stored = self.stored.clone();
        let noted = tokio::task::spawn_blocking(move || {
            let noted = if right { stored.verdict.prove() } else { stored.verdict.revoke() };
            if let Err(error) = noted {
                tracing::warn!(layer = %stored.digest(), %error, "cannot note whether an index is right");
            }
        });
        if !right {
            // Not after the note: a disk that hangs or is full must not keep it from being told.
            self.around.source.revoke(self.digest(), self.stored.head.id).await;
        }
        noted.await.map_err(shut_down)?;
        match judgement {
            Judgement::Right => Ok(()),
            Judgement::DiffId(got) => Err(FillError::DiffId { got }),
            Judgement::Tree => Err(FillError::Tree),
        }
    }

    /// Puts the spans that were written so far where a loss of power leaves them. Blocks.
    pub(super) fn sync(&self) {
        self.stored.sync();
    }

    /// A span, fetched once however many ask for it. Who waits for one that is only being filled in asks anew; what is
    /// read ahead is not so far behind.
    fn span(self: &Arc<Self>, span: SpanIndex, urgency: Urgency) -> Shared<BoxFuture<'static, Fetched>> {
        if urgency == Urgency::Demand {
            *lock(&self.last_demand) = Some(Instant::now());
        }
        let mut fetches = lock(&self.fetches);
        // Whoever reads one byte makes the kernel ask up to three times: ahead, for the page, and once more for a page
        // that is mapped. That is one read, with one deadline.
        let forgotten = self.around.patience.forgotten();
        fetches.unserved.retain(|_, (at, _)| at.elapsed() < forgotten);
        if urgency == Urgency::Demand
            && let Some((_, error)) = fetches.unserved.get(&span)
        {
            return ready(Err(error.clone())).boxed().shared();
        }
        if let Some(running) = fetches.running.get(&span)
            && running.urgency >= urgency.min(Urgency::Prefetch)
        {
            return running.result.clone();
        }
        fetches.begun += 1;
        let number = fetches.begun;
        let layer = self.clone();
        // A task of its own, so that it ends even if all who wait for it go away.
        let task = tokio::spawn(async move {
            let fetched = layer.obtain(span, urgency).await;
            let unserved = |error: &&ReadError| {
                matches!(error, ReadError::Source { error: SourceError::Unavailable(_), .. })
            };
            let unserved = fetched.as_ref().err().filter(unserved).filter(|_| urgency == Urgency::Demand);
            layer.finished(span, number, unserved);
            fetched.inspect_err(|error| {
                // Nobody waits for a fill; who asked for it tells of it.
                if urgency != Urgency::Fill {
                    layer.around.metrics.failed();
                    tracing::warn!(span = span.0, %error, "a span cannot be read");
                }
            })
        });
        let layer = *self.digest();
        let result = async move { task.await.unwrap_or(Err(ReadError::ShutDown { layer })) }.boxed().shared();
        fetches.running.insert(span, Fetch { number, urgency, result: result.clone() });
        result
    }

    fn finished(&self, span: SpanIndex, number: u64, unserved: Option<&ReadError>) {
        let mut fetches = lock(&self.fetches);
        if let Some(error) = unserved {
            fetches.unserved.insert(span, (Instant::now(), error.clone()));
        }
        if fetches.running.get(&span).is_some_and(|fetch| fetch.number == number) {
            fetches.running.remove(&span);
        }
    }

    async fn obtain(&self, span: SpanIndex, urgency: Urgency) -> Fetched {
        if let Some(stored) = self.stored_span(span).await {
            self.around.metrics.found_on_disk();
            return Ok(stored);
        }
        let deadline = Instant::now() + self.around.patience.deadline;
        let unavailable = || SourceError::Unavailable(*self.digest());
        let unavailable = || ReadError::Source { span: span.0, error: unavailable() };
        let permits = if urgency == Urgency::Demand { &self.demand } else { &self.ahead };
        let permit = tokio::time::timeout_at(deadline, permits.acquire()).await;
        let _permit = permit.map_err(|_| unavailable())?.map_err(|_| unavailable())?;
        SpanFetch { stored: &self.stored, around: &self.around, span, urgency, deadline }.run().await
    }

    /// The span from this disk, if it is said to be there and is right.
    async fn stored_span(&self, span: SpanIndex) -> Option<VerifiedSpan> {
        let map = &self.stored.map;
        let failed_syncs = map.failed_syncs();
        if !map.is_checked(span) && !map.is_stored(span) {
            return None;
        }
        let stored = self.stored.clone();
        let read = tokio::task::spawn_blocking(move || {
            stored.read(span).inspect(|_| stored.map.found(span, failed_syncs))
        });
        read.await.ok().flatten()
    }

    fn disk(&self, error: io::Error) -> ReadError {
        ReadError::Disk { layer: *self.digest(), error: Arc::new(error) }
    }
}

impl Drop for Layer {
    /// Here it may not wait for the disk.
    fn drop(&mut self) {
        self.around.shelf.close_later(self.stored.clone());
    }
}

fn parts(tree: &Tree) -> Box<[Extent]> {
    let extents = tree.nodes.iter().flat_map(|node| match &node.kind {
        Kind::File { extents, .. } => &**extents,
        _ => &[],
    });
    let in_tar = |extent: &Extent| Extent { file_offset: extent.tar_offset, ..*extent };
    let mut parts: Vec<_> = extents.map(in_tar).collect();
    parts.sort_unstable_by_key(|part| part.tar_offset);
    // No tar has two in one place, but somebody may have made an index by hand.
    parts.dedup_by(|next, part| {
        let end = part.tar_offset + part.len;
        let within = next.tar_offset < end;
        if within {
            part.len = end.max(next.tar_offset + next.len) - part.tar_offset;
        }
        within
    });
    parts.into()
}

/// How far `at` lies behind `start`; both lie within one read or one span.
fn offset(start: u64, at: u64) -> usize {
    usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX)
}
