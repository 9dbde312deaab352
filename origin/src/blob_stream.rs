//! A range of a blob as it comes from an origin: exactly its bytes, or an error.

use std::fmt;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream;
use http::StatusCode;

use crate::content_range::content_range;
use crate::error::{Failure, OriginError};
use crate::http_client::Answer;
use crate::identity::Identity;
use crate::registry::{BlobRequest, Registry};

/// Times that one read goes on after a cut. A range has at most a few chunks, so that a registry that cuts
/// more often is not worth waiting for.
const MAX_RESUMES: u32 = 5;

/// The bytes from [`BlobStream::start`] to [`BlobStream::end`], in order. Their digest is not checked.
///
/// It ends after exactly that many bytes, or with an error. A cut is mended inside by reading on from
/// there, a bounded number of times. Dropping it ends the transfer.
pub struct BlobStream {
    start: u64,
    end: u64,
    ignores_range: bool,
    pieces: Pin<Box<dyn Stream<Item = Result<Bytes, OriginError>> + Send>>,
}

impl BlobStream {
    pub(crate) fn new(
        range: Range<u64>,
        pieces: impl Stream<Item = Result<Bytes, OriginError>> + Send + 'static,
    ) -> Self {
        Self { start: range.start, end: range.end, ignores_range: false, pieces: Box::pin(pieces) }
    }

    /// The offset in the blob of the first byte to come.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The offset in the blob after the last byte to come.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Whether the registry answered a request for a part with the whole blob. The stream then starts at 0 and
    /// ends at the blob's end: whoever reads it decides whether that is worth it.
    pub fn ignores_range(&self) -> bool {
        self.ignores_range
    }
}

impl Stream for BlobStream {
    type Item = Result<Bytes, OriginError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.pieces.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlobStream({}..{})", self.start, self.end)
    }
}

/// A read under way.
struct Reading {
    registry: Arc<Registry>,
    blob: BlobRequest,
    who: Identity,
    subject: String,
    answer: Answer,
    /// Offset of the next byte to be given out.
    at: u64,
    end: u64,
    /// Bytes of the answer that were given out before a cut.
    skip: u64,
    /// Where in the blob the answer must end: beyond `end` if it is the whole blob.
    sent_end: u64,
    resumes: u32,
}

/// Starts to read a range of a blob. The range must not be empty, nor reach beyond the blob.
pub(crate) async fn open(
    registry: Arc<Registry>,
    blob: BlobRequest,
    range: Range<u64>,
    who: Identity,
    subject: String,
) -> Result<BlobStream, Failure> {
    let answer = registry.get_range(&blob, range.start, range.end, &who).await?;
    let sent = body_range(&answer, &blob, &range)?;
    let ignores_range = sent != range;
    let (at, end) = (sent.start, sent.end);
    let reading =
        Reading { registry, blob, who, subject, answer, at, end, skip: 0, sent_end: end, resumes: 0 };
    let pieces = stream::try_unfold(reading, |mut reading| async move {
        match reading.next().await {
            Ok(piece) => Ok(piece.map(|piece| (piece, reading))),
            Err(failure) => Err(OriginError::new(reading.subject.as_str(), failure)),
        }
    });
    Ok(BlobStream { ignores_range, ..BlobStream::new(sent, pieces) })
}

/// Checks what an answer to a request for `range` is about, and tells which part of the blob it sends.
fn body_range(answer: &Answer, blob: &BlobRequest, range: &Range<u64>) -> Result<Range<u64>, Failure> {
    let sent = match answer.status() {
        StatusCode::PARTIAL_CONTENT => {
            let told = content_range(answer.headers()).ok_or(Failure::WrongRange)?;
            if let Some(got) = told.size.filter(|size| *size != blob.size) {
                return Err(Failure::WrongLength { want: blob.size, got });
            }
            if told.start != range.start || told.last.checked_add(1) != Some(range.end) {
                return Err(Failure::WrongRange);
            }
            range.clone()
        }
        StatusCode::OK => 0..blob.size,
        status => return Err(Failure::Status { status: status.as_u16() }),
    };
    let want = sent.end - sent.start;
    match answer.content_length() {
        Some(got) if got != want => Err(Failure::WrongLength { want, got }),
        _ => Ok(sent),
    }
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while self.at < self.end {
            match self.answer.piece().await {
                Ok(Some(piece)) => {
                    if let Some(piece) = self.take(piece)? {
                        return Ok(Some(piece));
                    }
                }
                Ok(None) => self.resume(Failure::Cut { at: self.at }).await?,
                Err(failure) => self.resume(failure).await?,
            }
        }
        self.expect_end().await
    }

    /// Leaves out what was given out before, and refuses what is beyond the end.
    fn take(&mut self, mut piece: Bytes) -> Result<Option<Bytes>, Failure> {
        let known = usize::try_from(self.skip).unwrap_or(usize::MAX).min(piece.len());
        self.skip -= known as u64;
        let piece = piece.split_off(known);
        let after = self.at + piece.len() as u64;
        if after > self.sent_end {
            return Err(Failure::WrongLength { want: self.sent_end, got: after });
        }
        let wanted = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(piece.len());
        self.at += wanted as u64;
        Ok(Some(piece.slice(..wanted)).filter(|piece| !piece.is_empty()))
    }

    /// Goes on after a cut, from the byte that is due.
    async fn resume(&mut self, failure: Failure) -> Result<(), Failure> {
        if self.resumes == MAX_RESUMES {
            return Err(failure);
        }
        self.resumes += 1;
        tracing::debug!(digest = %self.blob.digest, at = self.at, %failure, "reading on after a cut");
        self.answer = self.registry.get_range(&self.blob, self.at, self.end, &self.who).await?;
        let sent = body_range(&self.answer, &self.blob, &(self.at..self.end))?;
        self.skip = self.at - sent.start;
        self.sent_end = sent.end;
        Ok(())
    }

    /// A body that goes on after its end is not the one that was asked for.
    async fn expect_end(&mut self) -> Result<Option<Bytes>, Failure> {
        if self.end < self.sent_end {
            // The rest of a whole blob of which a part was wanted.
            return Ok(None);
        }
        match self.answer.piece().await {
            Ok(Some(piece)) if !piece.is_empty() => {
                Err(Failure::WrongLength { want: self.end, got: self.end + piece.len() as u64 })
            }
            // All bytes are there: how the connection ends does not matter.
            _ => Ok(None),
        }
    }
}
