//! A client's read of a range of a blob, wherever its bytes are by now.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use shoal_proto::ChunkLayout;
use shoal_registry_proxy::{Piece, ReadFailure, Source};
use shoal_store::ReadError;
use shoal_swarm::hold;
use tracing::warn;

use super::active::{ActiveBlob, Failure, Phase, Wanted};
use super::blocks::{Body, PIECES, Pieces, ReadFault};
use super::service::{BlobService, LINGER, Opened};
use super::through::Through;
use crate::swarm::Input;

/// Without any progress for so long a client is told, before it gives up by itself after 30 s.
const PATIENCE: Duration = Duration::from_secs(25);
/// The same where the origin has said already that it cannot answer.
const PATIENCE_IN_OUTAGE: Duration = Duration::from_secs(6);
/// A blob that was complete may turn out corrupt on disk and be repaired; more often than this per read
/// the disk is broken.
const MAX_REPAIRS: u32 = 8;

/// The bytes of `range` in order, verified. Begins the download if they are not here. Pieces must be dropped as
/// they are used: whoever keeps some of them gets no more.
pub(crate) fn reading(
    service: BlobService,
    wanted: Wanted,
    range: Range<u64>,
) -> impl Stream<Item = Result<Piece, ReadFailure>> + Send + 'static {
    let reading = Reading::new(service, wanted, range);
    futures_util::stream::unfold(Some(reading), |reading| async move {
        let mut reading = reading?;
        match reading.next().await {
            Ok(Some(piece)) => Some((Ok(piece), Some(reading))),
            Ok(None) => None,
            Err(failure) => Some((Err(failure), None)),
        }
    })
}

enum From {
    Nowhere,
    Disk(Pieces),
    Origin(Box<Through>),
    Download(Watching),
}

struct Reading {
    service: BlobService,
    wanted: Wanted,
    range: Range<u64>,
    from: From,
    source: Source,
    /// The round whose bytes were given out already.
    given_round: Option<u32>,
    repairs: u32,
    body: Body,
}

/// A place among the readers of a download.
struct Watching {
    blob: Arc<ActiveBlob>,
    changes: tokio::sync::watch::Receiver<u64>,
    service: BlobService,
    reader: u64,
    since: Instant,
    /// When something came last, and [`ActiveBlob::progress`] then.
    progress: Instant,
    count: u64,
    /// What is being read of the chunks that are here, all in the round of what was given out already.
    pieces: Option<Pieces>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.blob.reader_left(LINGER);
        let input = Input::Unwant { blob: self.blob.clone(), reader: self.reader };
        self.service.swarm().send_later(input);
    }
}

impl Reading {
    fn new(service: BlobService, wanted: Wanted, range: Range<u64>) -> Self {
        let (body, from, source) = (service.budget().body(PIECES), From::Nowhere, Source::Local);
        Self { service, wanted, range, from, source, given_round: None, repairs: 0, body }
    }

    async fn next(&mut self) -> Result<Option<Piece>, ReadFailure> {
        while self.range.start < self.range.end {
            let piece = match std::mem::replace(&mut self.from, From::Nowhere) {
                From::Nowhere => {
                    self.open().await?;
                    None
                }
                From::Disk(mut pieces) => self.read(&mut pieces).await?.inspect(|_| {
                    self.from = From::Disk(pieces);
                }),
                From::Download(watching) => self.follow(watching).await?,
                From::Origin(through) => Some(self.pass_through(through).await?),
            };
            if let Some(piece) = piece {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }

    fn give(&mut self, bytes: Bytes) -> Piece {
        let len = bytes.len() as u64;
        self.range.start += len;
        self.service.metrics().client_bytes.get_or_create(&self.source.into()).inc_by(len);
        Piece { bytes, source: self.source }
    }

    async fn pass_through(&mut self, mut through: Box<Through>) -> Result<Piece, ReadFailure> {
        let bytes = through.next(&self.range).await?;
        self.source = Source::Origin;
        self.from = From::Origin(through);
        Ok(self.give(bytes))
    }

    /// Reads from the disk. `None` where it has lost the bytes: the blob is opened anew.
    async fn read(&mut self, pieces: &mut Pieces) -> Result<Option<Piece>, ReadFailure> {
        match self.body.next(pieces).await {
            Ok(bytes) => Ok(bytes.map(|bytes| self.give(bytes))),
            Err(ReadFault::Read(ReadError::Corrupt { index, blob })) => {
                warn!(%blob, chunk = %index, "corrupt on disk; repairing from the swarm");
                self.count_repair().map(|()| None)
            }
            Err(ReadFault::Read(ReadError::Missing { .. })) => self.count_repair().map(|()| None),
            Err(ReadFault::Read(error)) => Err(ReadFailure::Unavailable(error.to_string())),
            Err(ReadFault::Stopping) => Err(ReadFailure::Stopping),
        }
    }

    async fn open(&mut self) -> Result<(), ReadFailure> {
        let opened = self.service.open(self.wanted.clone()).await;
        match opened.map_err(|error| ReadFailure::Unavailable(error.to_string()))? {
            Opened::Local => {
                self.read_complete();
                Ok(())
            }
            Opened::Active(blob) => {
                let watching = self.watch(blob);
                let (blob, reader) = (watching.blob.clone(), watching.reader);
                let chunks = blob.layout.chunks_of(&self.range);
                self.from = From::Download(watching);
                self.service.swarm().send(Input::Want { blob, reader, chunks }).await;
                Ok(())
            }
        }
    }

    fn watch(&self, blob: Arc<ActiveBlob>) -> Watching {
        blob.reader_came();
        let reader = self.service.next_reader();
        let now = Instant::now();
        let service = self.service.clone();
        let (changes, count) = (blob.subscribe(), blob.progress());
        Watching { blob, changes, service, reader, since: now, progress: now, count, pieces: None }
    }

    fn read_complete(&mut self) {
        let (store, digest) = (self.service.store().clone(), self.wanted.digest);
        self.from = From::Disk(Pieces::new(move || store.reader(&digest), self.range.clone()));
    }

    fn count_repair(&mut self) -> Result<(), ReadFailure> {
        self.repairs += 1;
        if self.repairs > MAX_REPAIRS {
            return Err(ReadFailure::Unavailable("the disk loses what is written to it".into()));
        }
        Ok(())
    }

    /// Waits for the next bytes of a download that may be given out, and reads them.
    async fn follow(&mut self, mut watching: Watching) -> Result<Option<Piece>, ReadFailure> {
        watching.changes.mark_unchanged();
        let blob = watching.blob.clone();
        let round = blob.swarm().round;
        if self.given_round.is_some_and(|given| given != round) {
            let reason = format!("{} turned out wrong after a part of it was sent", blob.digest);
            return Err(ReadFailure::Corrupt(reason));
        }
        match blob.phase() {
            Phase::Complete => {
                self.source = blob.first_source().unwrap_or(Source::Local);
                self.read_complete();
                return Ok(None);
            }
            // What was given out before has no digest that vouches for it: that client sees a cut.
            Phase::Failed(Failure::Store(why)) if self.given_round.is_none() => {
                let through = Through::open(self.service.clone(), self.wanted.clone(), &why).await?;
                self.from = From::Origin(Box::new(through));
                return Ok(None);
            }
            Phase::Failed(failure) => return Err(failed(&failure)),
            Phase::Fetching => {}
        }
        let mut pieces = match watching.pieces.take() {
            Some(pieces) => pieces,
            None => {
                let Some(range) = streamable(&blob, &watching, &self.range) else {
                    watching.wait().await?;
                    self.from = From::Download(watching);
                    return Ok(None);
                };
                self.source = blob.first_source().unwrap_or(Source::Local);
                let (store, swarm, repair) = (self.service.store().clone(), blob.swarm(), blob.is_repair());
                let open = move || match repair {
                    true => store.reader(&swarm.digest),
                    false => store.partial_reader(&swarm),
                };
                Pieces::new(open, range)
            }
        };
        let Some(piece) = self.read(&mut pieces).await? else { return Ok(None) };
        self.given_round = Some(round);
        watching.progress = Instant::now();
        watching.pieces = (!pieces.is_over()).then_some(pieces);
        self.from = From::Download(watching);
        Ok(Some(piece))
    }
}

impl Watching {
    /// Until something changed, or the hold may be over.
    async fn wait(&mut self) -> Result<(), ReadFailure> {
        let count = self.blob.progress();
        if count != self.count {
            (self.count, self.progress) = (count, Instant::now());
        }
        let outage = self.blob.outage();
        let patience = if outage.is_some() { PATIENCE_IN_OUTAGE } else { PATIENCE };
        let Some(left) = patience.checked_sub(self.progress.elapsed()) else {
            let reason = outage.unwrap_or_else(|| "no chunk arrived from peers or origin".into());
            let give_up = Input::GiveUp { blob: self.blob.clone(), reason: reason.clone() };
            self.service.swarm().send(give_up).await;
            return Err(ReadFailure::Unavailable(format!("{}: {reason}", self.blob.digest)));
        };
        let look_again = left.min(hold::look_again(self.since.elapsed()));
        match tokio::time::timeout(look_again, self.changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(ReadFailure::Stopping),
            Err(_) => {}
        }
        Ok(())
    }
}

fn failed(failure: &Failure) -> ReadFailure {
    match failure {
        Failure::WrongBytes => ReadFailure::Corrupt(failure.to_string()),
        _ => ReadFailure::Unavailable(failure.to_string()),
    }
}

/// What of `range` may be given out before the digest matched: nothing while the body is held, and never the
/// blob's last bytes.
fn streamable(blob: &ActiveBlob, watching: &Watching, range: &Range<u64>) -> Option<Range<u64>> {
    if hold::is_held(watching.since.elapsed(), blob.remaining()) {
        return None;
    }
    let layout = &blob.layout;
    before_the_last(layout, &blob.ready(&layout.chunks_of(range))?, range)
}

/// The bytes of `range` in chunks that are here, without the blob's last chunk.
fn before_the_last(layout: &ChunkLayout, ready: &Range<u32>, range: &Range<u64>) -> Option<Range<u64>> {
    let last = layout.count().saturating_sub(1);
    let end = layout.range(shoal_proto::ChunkIndex(ready.end.min(last).saturating_sub(1))).end;
    let end = if ready.start < last { end.min(range.end) } else { range.start };
    (range.start < end).then_some(range.start..end)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_last_chunk_is_not_given_out_before_the_digest_matched() {
        let chunk = shoal_proto::MIN_CHUNK;
        let size = 3 * chunk + 5;
        let layout = ChunkLayout::new(size).unwrap();
        let give = |ready, range| before_the_last(&layout, &ready, &range);
        assert_eq!(give(0..2, 0..size), Some(0..2 * chunk));
        assert_eq!(give(0..4, 7..size), Some(7..3 * chunk), "all chunks are here");
        assert_eq!(give(0..4, 7..100), Some(7..100), "no more than is wanted");
        assert_eq!(give(3..4, 3 * chunk..size), None, "only the last one is left");
    }
}
