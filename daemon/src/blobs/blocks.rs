//! Reading verified bytes off the runtime's threads, ahead of who takes them, with bounded memory.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use shoal_proto::BLOCK_SIZE;
use shoal_store::{READ_BLOCKS, ReadError, Reader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

/// Pieces that a body may have in memory: one that is being sent, one that waits, one that is being read.
pub(crate) const PIECES: u16 = 3;
/// Bytes of a piece.
const PIECE: u64 = BLOCK_SIZE * READ_BLOCKS as u64;

/// Memory for bodies that are being sent. As long as there are few of them each reads ahead in long pieces, so
/// that disk, hash and socket overlap; when there are many, each has one block at a time.
#[derive(Clone, Debug)]
pub(crate) struct BlockBudget {
    bodies: Arc<AtomicUsize>,
    /// As many bodies may read ahead.
    few: usize,
}

impl BlockBudget {
    /// A budget of so many bytes for what is read ahead; one block for each body comes on top.
    pub(crate) fn new(bytes: u64) -> Self {
        let few = usize::try_from(bytes / (PIECE * u64::from(PIECES))).unwrap_or(1).max(1);
        Self { bodies: Arc::default(), few }
    }

    /// A body, of which at most so many pieces are in memory.
    pub(crate) fn body(&self, pieces: u16) -> Body {
        self.bodies.fetch_add(1, Ordering::Relaxed);
        Body { budget: self.clone(), pieces, places: Arc::new(Semaphore::new(pieces.into())) }
    }
}

/// The reads of one body. Whoever takes its pieces must drop them in the end: while too many are held, no more
/// are read.
#[derive(Debug)]
pub(crate) struct Body {
    budget: BlockBudget,
    pieces: u16,
    places: Arc<Semaphore>,
}

impl Drop for Body {
    fn drop(&mut self) {
        self.budget.bodies.fetch_sub(1, Ordering::Relaxed);
    }
}

type Opening = Box<dyn FnOnce() -> Result<Reader, ReadError> + Send>;

/// Where a body's next bytes come from.
pub(crate) enum Next {
    /// Opens what they are in; may block.
    Open(Opening),
    /// They are being read already.
    Ahead(Reading),
}

/// A read under way. Dropping it lets it end unseen.
pub(crate) struct Reading(JoinHandle<Result<(Reader, Bytes), ReadError>>);

/// Bytes, and the place that they take in memory.
struct Held {
    bytes: Bytes,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Body {
    fn reads_ahead(&self) -> bool {
        self.budget.bodies.load(Ordering::Relaxed) <= self.budget.few
    }

    /// Reads the first bytes of `range`, and begins to read those that follow.
    pub(crate) async fn read(&self, next: Next, range: Range<u64>) -> Result<(Bytes, Next), ReadFault> {
        let reading = match next {
            Next::Open(open) => self.begin(open, range.clone()).await?,
            Next::Ahead(reading) => reading,
        };
        let (reader, bytes) = reading.0.await.map_err(|_| ReadFault::Stopping)??;
        let rest = range.start + bytes.len() as u64..range.end;
        Ok((bytes, self.begin_ahead(reader, rest)))
    }

    /// Begins once there is a place for what is read.
    async fn begin(&self, open: Opening, range: Range<u64>) -> Result<Reading, ReadFault> {
        let ahead = self.reads_ahead();
        // Among many bodies, what this one read before must have gone.
        let places = if ahead { 1 } else { self.pieces.into() };
        let place = self.places.clone().acquire_many_owned(places).await;
        let place = place.map_err(|_| ReadFault::Stopping)?;
        Ok(Reading::start(open, if ahead { range } else { first_block(range) }, place))
    }

    /// Begins at once where there is a place.
    fn begin_ahead(&self, reader: Reader, range: Range<u64>) -> Next {
        let open = || Ok(reader);
        match self.places.clone().try_acquire_owned() {
            Ok(place) if self.reads_ahead() && !range.is_empty() => {
                Next::Ahead(Reading::start(open, range, place))
            }
            _ => Next::Open(Box::new(open)),
        }
    }
}

impl Reading {
    fn start(
        open: impl FnOnce() -> Result<Reader, ReadError> + Send + 'static,
        range: Range<u64>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self(tokio::task::spawn_blocking(move || {
            let mut reader = open()?;
            let bytes = reader.read(range)?.into_inner();
            Ok((reader, Bytes::from_owner(Held { bytes, _place: place })))
        }))
    }
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadFault {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the node is stopping")]
    Stopping,
}

/// Up to the next block boundary.
fn first_block(range: Range<u64>) -> Range<u64> {
    let boundary = (range.start / BLOCK_SIZE + 1) * BLOCK_SIZE;
    range.start..range.end.min(boundary)
}
