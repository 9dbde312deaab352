//! Reading verified bytes off the runtime's threads, ahead of who takes them, with bounded memory.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use shoal_proto::BLOCK_SIZE;
use shoal_store::{READ_BLOCKS, ReadError, Reader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

/// Pieces that a body may have in memory: one that is being sent, one that waits, one that is being read.
pub(crate) const PIECES: u16 = 3;
/// Pieces that are read before anybody asks for them.
const AHEAD: usize = 2;
/// Bytes of a piece.
const PIECE: u64 = BLOCK_SIZE * READ_BLOCKS as u64;

/// Memory for bodies that are being sent. As long as it lasts they read ahead in long pieces, so that disk, hash and
/// socket overlap; who gets none of it has one block at a time, which comes on top.
#[derive(Clone, Debug)]
pub(crate) struct BlockBudget(Arc<Semaphore>);

impl BlockBudget {
    /// A budget of so many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        let pieces = usize::try_from(bytes / PIECE).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(pieces)))
    }

    /// A body, of which at most so many pieces are in memory.
    pub(crate) fn body(&self, pieces: u16) -> Body {
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

type Opening = Box<dyn FnOnce() -> Result<Reader, ReadError> + Send>;

/// A range of a blob on its way from the disk. Dropping it ends the reading.
pub(crate) struct Pieces {
    /// What was not taken yet, and what of that nobody reads yet.
    rest: Range<u64>,
    unread: Range<u64>,
    from: From,
    sender: mpsc::Sender<Bytes>,
    ready: mpsc::Receiver<Bytes>,
}

enum From {
    /// Nothing is being read: opens what comes next. May block.
    Closed(Opening),
    Running(JoinHandle<Run>),
    Failed(Option<ReadFault>),
}

/// Reads piece after piece into the channel, until somebody would have to be waited for: there are few threads for
/// all that blocks, and a client may be as slow as it likes.
struct Run {
    reader: Result<Reader, ReadError>,
    unread: Range<u64>,
}

/// The right to have a piece in memory.
struct Place {
    #[expect(dead_code, reason = "held until the piece is dropped")]
    own: OwnedSemaphorePermit,
    /// `None` for a single block.
    budget: Option<OwnedSemaphorePermit>,
}

/// Bytes, and the place that they take in memory.
struct Held {
    bytes: Bytes,
    _place: Place,
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
        let (sender, ready) = mpsc::channel(AHEAD);
        Self { rest: range.clone(), unread: range, from: From::Closed(Box::new(open)), sender, ready }
    }

    /// Whether all of it was taken.
    pub(crate) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    /// A run has ended.
    fn ended(&mut self, run: Option<Run>) {
        self.from = match run {
            Some(Run { reader: Ok(reader), unread }) => {
                self.unread = unread;
                From::Closed(Box::new(|| Ok(reader)))
            }
            Some(Run { reader: Err(error), .. }) => From::Failed(Some(error.into())),
            None => From::Failed(None),
        };
    }
}

impl Body {
    /// The next piece, verified; `None` at the range's end. After an error there are no more.
    pub(crate) async fn next(&self, pieces: &mut Pieces) -> Result<Option<Bytes>, ReadFault> {
        while !pieces.is_over() {
            if let From::Running(run) = &mut pieces.from
                && let Some(ended) = run.now_or_never()
            {
                pieces.ended(ended.ok());
            }
            // Goes on reading while what is ready is being sent.
            if matches!(pieces.from, From::Closed(_))
                && !pieces.unread.is_empty()
                && let Some(place) = long_place(&self.budget, &self.places)
            {
                pieces.begin(&self.budget, &self.places, place);
            }
            let ready = match &mut pieces.from {
                From::Running(run) => tokio::select! {
                    biased;
                    piece = pieces.ready.recv() => piece,
                    ended = run => {
                        pieces.ended(ended.ok());
                        None
                    }
                },
                _ => pieces.ready.try_recv().ok(),
            };
            if let Some(piece) = ready {
                pieces.rest.start += piece.len() as u64;
                return Ok(Some(piece));
            }
            match &mut pieces.from {
                // What it read before it ended is ready.
                _ if !pieces.ready.is_empty() => {}
                From::Closed(_) => {
                    let place = self.place().await?;
                    pieces.begin(&self.budget, &self.places, place);
                }
                From::Running(_) => {}
                From::Failed(error) => return Err(error.take().unwrap_or(ReadFault::Stopping)),
            }
        }
        Ok(None)
    }

    /// A place for a piece; for a block where the budget is used up, once all that this body had is gone.
    async fn place(&self) -> Result<Place, ReadFault> {
        let stopping = |_| ReadFault::Stopping;
        let own = self.places.clone().acquire_owned().await.map_err(stopping)?;
        if let Ok(budget) = self.budget.0.clone().try_acquire_owned() {
            return Ok(Place { own, budget: Some(budget) });
        }
        drop(own);
        let own = self.places.clone().acquire_many_owned(self.pieces.into()).await.map_err(stopping)?;
        Ok(Place { own, budget: None })
    }
}

fn long_place(budget: &BlockBudget, places: &Arc<Semaphore>) -> Option<Place> {
    let own = places.clone().try_acquire_owned().ok()?;
    let budget = budget.0.clone().try_acquire_owned().ok()?;
    Some(Place { own, budget: Some(budget) })
}

impl Pieces {
    fn begin(&mut self, budget: &BlockBudget, places: &Arc<Semaphore>, place: Place) {
        let From::Closed(open) = std::mem::replace(&mut self.from, From::Failed(None)) else { return };
        let (budget, places) = (budget.clone(), places.clone());
        let (to, mut unread) = (self.sender.clone(), self.unread.clone());
        self.from = From::Running(tokio::task::spawn_blocking(move || {
            let reader = open().and_then(|mut reader| {
                let mut place = Some(place);
                while let (Some(held), Ok(slot)) = (place.take(), to.try_reserve()) {
                    let next =
                        if held.budget.is_some() { unread.clone() } else { first_block(unread.clone()) };
                    let bytes = reader.read(next)?.into_inner();
                    unread.start += bytes.len() as u64;
                    slot.send(Bytes::from_owner(Held { bytes, _place: held }));
                    place = if unread.is_empty() { None } else { long_place(&budget, &places) };
                }
                Ok(reader)
            });
            Run { reader, unread }
        }));
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

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::cast_possible_truncation
    )]
    use std::time::Duration;

    use shoal_proto::SwarmId;
    use shoal_store::{Store, StoreConfig};
    use tempfile::TempDir;
    use tokio::runtime::Builder;

    use super::*;
    use crate::testing::put;

    struct Scene {
        _folder: TempDir,
        store: Store,
        swarm: SwarmId,
        content: Bytes,
    }

    /// A store with a blob of eight chunks and a bit.
    fn scene() -> Scene {
        let content: Vec<u8> = (0..(4 << 20) + 5_u32).map(|i| (i >> 9).to_le_bytes()[0]).collect();
        let content = Bytes::from(content);
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig { reserve_bytes: 0, ..StoreConfig::new(folder.path()) }).unwrap();
        let swarm = put(&store, &content);
        Scene { _folder: folder, store, swarm, content }
    }

    impl Scene {
        fn pieces(&self, range: Range<u64>) -> Pieces {
            let (store, digest) = (self.store.clone(), self.swarm.digest);
            Pieces::new(move || store.reader(&digest), range)
        }

        fn whole(&self) -> Pieces {
            self.pieces(0..self.swarm.size)
        }
    }

    #[tokio::test]
    async fn a_range_comes_in_order_and_then_there_is_no_more() {
        let (scene, budget) = (scene(), BlockBudget::new(64 << 20));
        for range in [0..scene.swarm.size, 1_000_000..1_100_000, 7..8, 5..5] {
            let body = budget.body(PIECES);
            let mut pieces = scene.pieces(range.clone());
            let mut all = Vec::new();
            while let Some(piece) = body.next(&mut pieces).await.unwrap() {
                all.extend_from_slice(&piece);
            }
            assert!(all == scene.content[range.start as usize..range.end as usize], "{range:?}");
            assert!(body.next(&mut pieces).await.unwrap().is_none());
        }
    }

    #[tokio::test]
    async fn who_keeps_pieces_gets_no_more_until_one_is_dropped() {
        let (scene, budget) = (scene(), BlockBudget::new(64 << 20));
        let (body, mut pieces) = (budget.body(PIECES), scene.whole());
        let mut kept = Vec::new();
        for _ in 0..PIECES {
            kept.push(body.next(&mut pieces).await.unwrap().unwrap());
        }
        assert_eq!(body.places.available_permits(), 0);
        let mut next = Box::pin(body.next(&mut pieces));
        assert!(next.as_mut().now_or_never().is_none(), "too many are kept");
        kept.pop();
        assert!(next.await.unwrap().is_some());
    }

    #[tokio::test]
    async fn where_memory_is_used_up_a_body_has_one_block_at_a_time() {
        let (scene, budget) = (scene(), BlockBudget::new(PIECE));
        let other = budget.body(PIECES);
        let all_there_is = other.next(&mut scene.whole()).await.unwrap();
        let (body, mut pieces) = (budget.body(PIECES), scene.whole());
        let first = body.next(&mut pieces).await.unwrap().unwrap();
        assert_eq!(first.len() as u64, BLOCK_SIZE);
        let mut next = Box::pin(body.next(&mut pieces));
        for _ in 0..100 {
            assert!(next.as_mut().now_or_never().is_none(), "one block is kept");
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        }
        drop(first);
        assert_eq!(next.await.unwrap().unwrap().len() as u64, BLOCK_SIZE);
        drop(all_there_is);
        let mut longest = 0;
        while let Some(piece) = body.next(&mut pieces).await.unwrap() {
            longest = longest.max(piece.len() as u64);
        }
        assert_eq!(longest, PIECE, "what is free again is used");
    }

    /// All that blocks shares few threads.
    #[test]
    fn bodies_that_nobody_reads_on_hold_no_thread() {
        let (scene, budget) = (scene(), BlockBudget::new(64 << 20));
        let runtime = Builder::new_current_thread().max_blocking_threads(1).enable_time().build().unwrap();
        runtime.block_on(async {
            let mut kept = Vec::new();
            for _ in 0..5 {
                let (body, mut pieces) = (budget.body(PIECES), scene.whole());
                kept.push((body.next(&mut pieces).await.unwrap(), body, pieces));
            }
            let read = async {
                let (body, mut pieces) = (budget.body(PIECES), scene.whole());
                while body.next(&mut pieces).await.unwrap().is_some() {}
            };
            tokio::time::timeout(Duration::from_secs(60), read).await.expect("no thread is left");
        });
    }

    #[tokio::test]
    async fn an_error_comes_after_what_could_be_read() {
        let (scene, budget) = (scene(), BlockBudget::new(64 << 20));
        let body = budget.body(PIECES);
        let mut pieces = scene.pieces(scene.swarm.size - 5..scene.swarm.size + 5);
        assert_eq!(body.next(&mut pieces).await.unwrap().unwrap().len(), 5);
        let error = body.next(&mut pieces).await.unwrap_err();
        assert!(matches!(error, ReadFault::Read(ReadError::PastEnd { .. })), "{error}");
        assert!(body.next(&mut pieces).await.is_err(), "and nothing more");
    }
}
