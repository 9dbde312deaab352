//! Response bodies.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http_body::{Frame, SizeHint};
use tokio::time::Sleep;
use tracing::Span;

use crate::metrics::InFlight;
use crate::{Piece, ReadFailure, Source};

/// The pieces of a blob.
pub(crate) type Pieces = Pin<Box<dyn Stream<Item = Result<Piece, ReadFailure>> + Send>>;

/// What is sent after the headers. It carries the request's place among those in flight, so that a request
/// counts until its last byte went out or its client left.
#[derive(Default)]
pub(crate) struct ReplyBody {
    content: Content,
    in_flight: Option<InFlight>,
}

#[derive(Default)]
enum Content {
    #[default]
    Empty,
    Full(Bytes, Option<Source>),
    Blob(BlobBody),
}

struct BlobBody {
    /// The piece that was awaited before the headers were sent.
    first: Option<Piece>,
    rest: Pieces,
    /// Bytes that the headers promised and that are not sent yet.
    remaining: u64,
    /// Why the body breaks off, and when.
    cut: Option<(CutError, Pin<Box<Sleep>>)>,
    span: Span,
}

/// Between the last good piece and the cut. Hyper throws away what it has not written yet when a body fails,
/// headers included; a client that got them and the good bytes can resume after those.
const CUT_DELAY: Duration = Duration::from_millis(50);

/// Why a body breaks off. Hyper closes the connection, or resets the stream, on any of these, so that the
/// client never takes a part for the whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CutError {
    #[error("reading the blob failed with {remaining} bytes to go: {source}")]
    Read { remaining: u64, source: ReadFailure },
    #[error("the blob ended {remaining} bytes early")]
    Short { remaining: u64 },
    #[error("{came} bytes came where {remaining} were left to send")]
    Long { remaining: u64, came: usize },
}

impl ReplyBody {
    pub(crate) fn empty() -> Self {
        Self::default()
    }

    pub(crate) fn full(bytes: Bytes) -> Self {
        Self { content: Content::Full(bytes, None), in_flight: None }
    }

    /// Content that counts as sent from `source`.
    pub(crate) fn manifest(bytes: Bytes, source: Source) -> Self {
        Self { content: Content::Full(bytes, Some(source)), in_flight: None }
    }

    /// A body of exactly `length` bytes.
    pub(crate) fn blob(first: Option<Piece>, rest: Pieces, length: u64) -> Self {
        let blob = BlobBody { first, rest, remaining: length, cut: None, span: Span::current() };
        Self { content: Content::Blob(blob), in_flight: None }
    }

    pub(crate) fn hold(&mut self, in_flight: InFlight) {
        self.in_flight = Some(in_flight);
    }
}

impl BlobBody {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, CutError>>> {
        loop {
            if let Some((_, delay)) = &mut self.cut {
                ready!(delay.as_mut().poll(cx));
                return Poll::Ready(self.cut.take().map(|(error, _)| Err(error)));
            }
            if self.remaining == 0 {
                return Poll::Ready(None);
            }
            let next = match self.first.take() {
                Some(piece) => Some(Ok(piece)),
                None => ready!(self.rest.as_mut().poll_next(cx)),
            };
            let error = match next {
                Some(Ok(piece)) if piece.bytes.is_empty() => continue,
                Some(Ok(piece)) => match self.remaining.checked_sub(piece.bytes.len() as u64) {
                    Some(remaining) => {
                        self.remaining = remaining;
                        return Poll::Ready(Some(Ok(piece)));
                    }
                    None => CutError::Long { remaining: self.remaining, came: piece.bytes.len() },
                },
                Some(Err(source)) => CutError::Read { remaining: self.remaining, source },
                None => CutError::Short { remaining: self.remaining },
            };
            tracing::warn!(parent: &self.span, %error, "cutting the response");
            // What is left of the stream is of no use; its place in the backend may be to others.
            self.rest = Box::pin(futures_util::stream::empty());
            self.cut = Some((error, Box::pin(tokio::time::sleep(CUT_DELAY))));
        }
    }
}

impl http_body::Body for ReplyBody {
    type Data = Bytes;
    type Error = CutError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutError>>> {
        let this = &mut *self;
        let piece = match &mut this.content {
            Content::Empty => None,
            Content::Full(bytes, source) => {
                let (bytes, source) = (std::mem::take(bytes), *source);
                this.content = Content::Empty;
                Some(Ok((bytes, source)))
            }
            Content::Blob(blob) => {
                ready!(blob.poll_piece(cx)).map(|next| next.map(|piece| (piece.bytes, Some(piece.source))))
            }
        };
        if let Some(in_flight) = &this.in_flight {
            match &piece {
                Some(Ok((bytes, Some(source)))) => in_flight.sent(*source, bytes.len() as u64),
                Some(Err(_)) => in_flight.cut(),
                Some(Ok((_, None))) | None => {}
            }
        }
        Poll::Ready(piece.map(|next| next.map(|(bytes, _)| Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Full(bytes, _) => bytes.is_empty(),
            Content::Blob(blob) => blob.remaining == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.content {
            Content::Empty => 0,
            Content::Full(bytes, _) => bytes.len() as u64,
            Content::Blob(blob) => blob.remaining,
        })
    }
}
