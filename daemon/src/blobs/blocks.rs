//! Reading verified bytes off the runtime's threads, ahead of who takes them, with bounded memory.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use shoal_proto::BLOCK_SIZE;
use shoal_store::{READ_BLOCKS, ReadError, Reader};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

/// Pieces that a body may have in memory: one that is being sent, one that waits, one that is being read.
pub(crate) const PIECES: u16 = 3;
/// Bytes of a piece.
const PIECE: u64 = BLOCK_SIZE * READ_BLOCKS as u64;

/// Memory for bodies that are being sent. As long as there are few of them each reads ahead in long pieces on a
/// thread of its own, so that disk, hash and socket overlap; when there are many, each has one block at a time.
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

    fn allows_reading_ahead(&self) -> bool {
        self.bodies.load(Ordering::Relaxed) <= self.few
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
        // A run that waits for a place ends.
        self.places.close();
        self.budget.bodies.fetch_sub(1, Ordering::Relaxed);
    }
}

type Opening = Box<dyn FnOnce() -> Result<Reader, ReadError> + Send>;

/// A range of a blob on its way from the disk. Dropping it ends the reading.
pub(crate) struct Pieces {
    rest: Range<u64>,
    from: From,
}

enum From {
    /// Nothing is being read: opens what comes next. May block.
    Closed(Opening),
    Running(Running),
    Failed,
}

/// A thread that reads.
struct Running {
    pieces: mpsc::Receiver<Bytes>,
    /// Gives its reader back when it stops before the range's end.
    task: JoinHandle<Result<Reader, ReadError>>,
}

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

impl Pieces {
    /// `open` may block.
    pub(crate) fn new(
        open: impl FnOnce() -> Result<Reader, ReadError> + Send + 'static,
        range: Range<u64>,
    ) -> Self {
        Self { rest: range, from: From::Closed(Box::new(open)) }
    }

    /// Whether all of it was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }
}

impl Body {
    /// The next piece, verified; `None` at the range's end. After an error there are no more.
    pub(crate) async fn next(&self, pieces: &mut Pieces) -> Result<Option<Bytes>, ReadFault> {
        while !pieces.rest.is_empty() {
            pieces.from = match std::mem::replace(&mut pieces.from, From::Failed) {
                From::Closed(open) => From::Running(self.run(open, pieces.rest.clone()).await?),
                From::Running(mut running) => match running.pieces.recv().await {
                    Some(piece) => {
                        pieces.rest.start += piece.len() as u64;
                        pieces.from = From::Running(running);
                        return Ok(Some(piece));
                    }
                    None => {
                        let reader = running.task.await.map_err(|_| ReadFault::Stopping)??;
                        From::Closed(Box::new(|| Ok(reader)))
                    }
                },
                From::Failed => return Err(ReadFault::Stopping),
            };
        }
        Ok(None)
    }

    /// Begins to read once there is a place for the first piece.
    async fn run(&self, open: Opening, range: Range<u64>) -> Result<Running, ReadFault> {
        let ahead = self.budget.allows_reading_ahead();
        // Among many bodies, what this one read before must have gone.
        let wanted = if ahead { 1 } else { self.pieces.into() };
        let place = self.places.clone().acquire_many_owned(wanted).await;
        let mut place = place.map_err(|_| ReadFault::Stopping)?;
        let (budget, places) = (self.budget.clone(), self.places.clone());
        let runtime = Handle::current();
        // One piece waits to be taken while the next one is read.
        let (to, pieces) = mpsc::channel(1);
        let task = tokio::task::spawn_blocking(move || {
            let (mut reader, mut rest) = (open()?, range);
            loop {
                let next =
                    if budget.allows_reading_ahead() { rest.clone() } else { first_block(rest.clone()) };
                let bytes = reader.read(next)?.into_inner();
                rest.start += bytes.len() as u64;
                let piece = Bytes::from_owner(Held { bytes, _place: place });
                if to.blocking_send(piece).is_err() || rest.is_empty() || !budget.allows_reading_ahead() {
                    return Ok(reader);
                }
                place = match runtime.block_on(places.clone().acquire_owned()) {
                    Ok(place) => place,
                    Err(_) => return Ok(reader),
                };
            }
        });
        Ok(Running { pieces, task })
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
