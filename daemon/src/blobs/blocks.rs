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
    /// The next piece, verified; `None` at the range's end. After an error, or if this was not awaited to its end,
    /// there are no more.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation)]
    use futures_util::FutureExt;
    use shoal_proto::{Algorithm, SwarmId, VerifiedChunk};
    use shoal_store::{ContentHasher, Store, StoreConfig};
    use tempfile::TempDir;
    use tokio::runtime::Runtime;

    use super::*;

    struct Scene {
        _folder: TempDir,
        store: Store,
        swarm: SwarmId,
        content: Bytes,
    }

    /// A store with a blob of four chunks and a bit.
    fn scene() -> Scene {
        let content: Vec<u8> = (0..(4 << 20) + 5_u32).map(|i| (i >> 9).to_le_bytes()[0]).collect();
        let content = Bytes::from(content);
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig { reserve_bytes: 0, ..StoreConfig::new(folder.path()) }).unwrap();
        let swarm = SwarmId {
            digest: ContentHasher::digest(Algorithm::Sha256, &content),
            size: content.len() as u64,
            origin: "registry.test".parse().unwrap(),
            round: 0,
        };
        let layout = swarm.layout().unwrap();
        let _partial = store.begin(&swarm).unwrap();
        for index in layout.chunks_of(&(0..swarm.size)).map(shoal_proto::ChunkIndex) {
            let range = layout.range(index);
            let bytes = content.slice(range.start as usize..range.end as usize);
            let chunk = VerifiedChunk::from_origin(&layout, index, bytes).unwrap();
            store.write_chunk(&swarm, chunk, b"").unwrap();
        }
        store.finish(&swarm, |_| Vec::new()).unwrap();
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
    async fn among_many_bodies_each_has_one_block_at_a_time() {
        let (scene, budget) = (scene(), BlockBudget::new(0));
        let (one, other) = (budget.body(PIECES), budget.body(PIECES));
        let mut pieces = scene.whole();
        let first = one.next(&mut pieces).await.unwrap().unwrap();
        assert_eq!(first.len() as u64, BLOCK_SIZE);
        let mut next = Box::pin(one.next(&mut pieces));
        for _ in 0..100 {
            assert!(next.as_mut().now_or_never().is_none(), "one block is kept");
            tokio::task::spawn_blocking(|| ()).await.unwrap();
        }
        drop(first);
        assert_eq!(next.await.unwrap().unwrap().len() as u64, BLOCK_SIZE);
        drop(other);
        let mut longest = 0;
        while let Some(piece) = one.next(&mut pieces).await.unwrap() {
            longest = longest.max(piece.len() as u64);
        }
        assert_eq!(longest, PIECE, "alone again, it reads ahead in long pieces");
    }

    #[test]
    fn a_body_that_is_dropped_leaves_no_thread() {
        let (scene, budget) = (scene(), BlockBudget::new(64 << 20));
        let runtime = Runtime::new().unwrap();
        let kept = runtime.block_on(async {
            let (body, mut pieces) = (budget.body(PIECES), scene.whole());
            let mut kept = Vec::new();
            for _ in 0..PIECES {
                kept.push(body.next(&mut pieces).await.unwrap().unwrap());
            }
            kept
        });
        // This waits for all of its threads, and the pieces are still kept.
        drop(runtime);
        drop(kept);
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
