//! Gives chunks to neighbours: admitted by the machine, read from the store, checked on the way.

use std::io;
use std::ops::Range;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use shoal_proto::message::ChunkRequest;
use shoal_proto::{NodeId, SwarmId};
use shoal_store::{ReadError, Reader, Store};
use shoal_swarm::peer::Admission;
use shoal_transport::{ChunkServer, Served};
use tracing::debug;

use super::SwarmHandle;
use crate::blobs::{BlockBudget, Pieces, ReadFault};

/// Pieces of a chunk that may be in memory: a chunk of the largest size, since on a long line they stay until the
/// neighbour has acknowledged them. Upload slots bound how many chunks there are.
const PIECES: u16 = 32;

/// Answers neighbours who ask for chunks.
#[derive(Clone, Debug)]
pub(crate) struct SwarmServer {
    pub store: Store,
    pub swarm: SwarmHandle,
    pub budget: BlockBudget,
}

impl ChunkServer for SwarmServer {
    fn serve(&self, from: NodeId, request: ChunkRequest) -> BoxFuture<'static, Served> {
        self.clone().answer(from, request).boxed()
    }
}

impl SwarmServer {
    async fn answer(self, from: NodeId, request: ChunkRequest) -> Served {
        let slot = match self.swarm.admit(from, request.clone()).await {
            (Admission::Serve { .. }, Some(slot)) => slot,
            (Admission::Busy, _) => return Served::Busy,
            _ => return Served::NotHeld,
        };
        let Some(range) = chunk_range(&request) else { return Served::NotHeld };
        let (store, swarm) = (self.store.clone(), request.swarm.clone());
        let sent = self.send(move || open(&store, &swarm), range, PIECES, slot).await;
        sent.unwrap_or_else(|error| {
            debug!(digest = %request.swarm.digest, chunk = %request.index, %error, "not served");
            Served::NotHeld
        })
    }

    /// Sends `range` of what `open`, which may block, opens; an error where nothing of it can be read. Keeps
    /// `place` until the last byte went out.
    pub(crate) async fn send<P: Send + 'static>(
        &self,
        open: impl FnOnce() -> Result<Reader, ReadError> + Send + 'static,
        range: Range<u64>,
        pieces: u16,
        place: P,
    ) -> Result<Served, ReadFault> {
        let len = match u32::try_from(range.end.saturating_sub(range.start)) {
            Ok(len) if len > 0 => len,
            _ => return Ok(Served::NotHeld),
        };
        let body = self.budget.body(pieces);
        let mut pieces = Pieces::new(open, range);
        // The first piece tells whether there is anything to announce.
        let first = body.next(&mut pieces).await?;
        let rest = stream::try_unfold((body, pieces, place), |(body, mut pieces, place)| async move {
            // The neighbour sees the stream end early, and asks elsewhere.
            let piece = body.next(&mut pieces).await.map_err(io::Error::other)?;
            Ok(piece.map(|piece| (piece, (body, pieces, place))))
        });
        Ok(Served::Sending { len, body: stream::iter(first.map(Ok)).chain(rest).boxed() })
    }
}

/// The bytes of the chunk within its blob, where the blob has such a chunk.
fn chunk_range(request: &ChunkRequest) -> Option<Range<u64>> {
    let layout = request.swarm.layout().ok()?;
    (request.index.0 < layout.count()).then(|| layout.range(request.index))
}

/// What a member that was admitted reads of a blob: a complete one serves every swarm of its digest.
pub(crate) fn open(store: &Store, swarm: &SwarmId) -> Result<Reader, ReadError> {
    match store.reader(&swarm.digest) {
        Ok(reader) if reader.layout().size() == swarm.size => Ok(reader),
        _ => store.partial_reader(swarm),
    }
}
