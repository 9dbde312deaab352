//! Fetches one span: its compressed bytes and its window, until they decode to what the index says.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join;
use tokio::time::Instant;

use super::stored::Stored;
use super::surroundings::{Part, Surroundings};
use super::{MAX_WRONG, ReadError};
use crate::index::SpanIndex;
use crate::source::{Given, Giver, SourceError, Urgency};
use crate::{SpanError, VerifiedSpan};

pub(super) struct SpanFetch<'a> {
    pub(super) stored: &'a Arc<Stored>,
    pub(super) around: &'a Surroundings,
    pub(super) span: SpanIndex,
    pub(super) urgency: Urgency,
    pub(super) deadline: Instant,
}

/// One of the two ranges that a span is made from.
struct Piece {
    part: Part,
    range: Range<u64>,
    got: Option<Given>,
    /// Who gave what was not right.
    wrong: Vec<Giver>,
}

impl Piece {
    fn new(part: Part, range: Range<u64>) -> Self {
        Self { part, range, got: None, wrong: Vec::new() }
    }

    /// What it gave comes last when it is asked for again.
    fn was_wrong(&mut self) {
        self.wrong.extend(self.got.take().map(|got| got.from));
    }

    fn bytes(&self) -> Bytes {
        self.got.as_ref().map(|got| got.bytes.clone()).unwrap_or_default()
    }
}

impl SpanFetch<'_> {
    pub(super) async fn run(self) -> Result<VerifiedSpan, ReadError> {
        let compressed = self.stored.index().spans.compressed_range(self.span).unwrap_or_default();
        let window = self.stored.head.window_range(self.span).unwrap_or_default();
        let mut compressed = Piece::new(Part::Layer, compressed);
        let mut window = Piece::new(Part::Index, window);
        for attempt in 1.. {
            let fetched = try_join(self.fetch(&mut compressed), self.fetch(&mut window)).await;
            fetched.map_err(|error| ReadError::Source { span: self.span.0, error })?;
            let error = match self.decode(compressed.bytes(), window.bytes()).await {
                Err(ReadError::Span { error, .. }) => error,
                decoded => {
                    return decoded.inspect(|_| self.around.metrics.fetched(self.urgency));
                }
            };
            self.around.metrics.was_wrong();
            if attempt >= MAX_WRONG {
                return Err(ReadError::Span { layer: *self.stored.digest(), error });
            }
            tracing::warn!(layer = %self.stored.digest(), %error, "asking again");
            // A window is checked by itself, and before it is used.
            match error {
                SpanError::Window(_) => window.was_wrong(),
                _ => compressed.was_wrong(),
            }
        }
        Err(ReadError::Source { span: self.span.0, error: SourceError::Unavailable(*self.stored.digest()) })
    }

    /// Only what is not there.
    async fn fetch(&self, piece: &mut Piece) -> Result<(), SourceError> {
        if piece.got.is_none() && !piece.range.is_empty() {
            let Piece { part, range, wrong, .. } = &*piece;
            let layer = self.stored.digest();
            let got = self.around.fetch(layer, *part, range, self.urgency, wrong, self.deadline).await?;
            piece.got = Some(got);
        }
        Ok(())
    }

    async fn decode(&self, compressed: Bytes, window: Bytes) -> Result<VerifiedSpan, ReadError> {
        let (stored, shelf, span) = (self.stored.clone(), self.around.shelf.clone(), self.span);
        let decoded = tokio::task::spawn_blocking(move || {
            let decoded = VerifiedSpan::decode(stored.index(), span, &compressed, &window);
            let decoded = decoded.map_err(|error| ReadError::Span { layer: *stored.digest(), error })?;
            stored.write(&decoded);
            shelf.wrote(decoded.bytes().len());
            Ok(decoded)
        });
        decoded.await.unwrap_or(Err(ReadError::ShutDown { layer: *self.stored.digest() }))
    }
}
