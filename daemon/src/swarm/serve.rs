//! Gives chunks to neighbours: admitted by the machine, read from the store, checked on the way.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use shoal_proto::NodeId;
use shoal_proto::message::ChunkRequest;
use shoal_store::{ReadError, Reader, Store};
use shoal_swarm::peer::Admission;
use shoal_transport::{ChunkServer, Served};
use tracing::debug;

use super::SwarmHandle;
use super::inbox::Slot;
use crate::blobs::{BlockBudget, Body, Next, ReadFault};
use crate::metrics::Metrics;

/// Pieces of a chunk that may be in memory: a chunk of the largest size, since on a long line they stay until the
/// neighbour has acknowledged them. Upload slots bound how many chunks there are.
const PIECES: u16 = 32;

/// Answers neighbours who ask for chunks.
#[derive(Clone, Debug)]
pub(crate) struct SwarmServer {
    pub store: Store,
    pub swarm: SwarmHandle,
    pub budget: BlockBudget,
    pub metrics: Metrics,
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
        let Ok(len) = u32::try_from(range.end - range.start) else { return Served::NotHeld };
        let (store, swarm) = (self.store.clone(), request.swarm.clone());
        let body = self.budget.body(PIECES);
        let open = Next::Open(Box::new(move || open(&store, &swarm)));
        match body.read(open, range.clone()).await {
            Ok((first, next)) => {
                let rest = range.start + first.len() as u64..range.end;
                let sending = Sending { body, next, rest, metrics: self.metrics, _slot: slot };
                let first = futures_util::stream::once(std::future::ready(Ok(first)));
                Served::Sending { len, body: first.chain(sending.pieces()).boxed() }
            }
            Err(fault) => {
                debug!(digest = %request.swarm.digest, chunk = %request.index, error = %fault, "not served");
                count(&self.metrics, &fault);
                Served::NotHeld
            }
        }
    }
}

/// The bytes of the chunk within its blob, where the blob has such a chunk.
fn chunk_range(request: &ChunkRequest) -> Option<Range<u64>> {
    let layout = request.swarm.layout().ok()?;
    (request.index.0 < layout.count()).then(|| layout.range(request.index))
}

fn count(metrics: &Metrics, fault: &ReadFault) {
    if matches!(fault, ReadFault::Read(ReadError::Corrupt { .. })) {
        metrics.chunks_corrupt.inc();
    }
}

/// A complete blob serves every swarm of its digest.
fn open(store: &Store, swarm: &shoal_proto::SwarmId) -> Result<Reader, ReadError> {
    match store.reader(&swarm.digest) {
        Ok(reader) if reader.layout().size() == swarm.size => Ok(reader),
        _ => store.partial_reader(swarm),
    }
}

/// What is left of a chunk on its way to a neighbour.
struct Sending {
    body: Body,
    next: Next,
    rest: Range<u64>,
    metrics: Metrics,
    _slot: Slot,
}

impl Sending {
    fn pieces(self) -> impl futures_util::Stream<Item = io::Result<Bytes>> {
        futures_util::stream::try_unfold(self, |mut sending| async move {
            if sending.rest.is_empty() {
                return Ok(None);
            }
            match sending.body.read(sending.next, sending.rest.clone()).await {
                Ok((bytes, next)) => {
                    sending.rest.start += bytes.len() as u64;
                    Ok(Some((bytes, Self { next, ..sending })))
                }
                // The neighbour sees the stream end early, and asks elsewhere.
                Err(fault) => {
                    count(&sending.metrics, &fault);
                    Err(io::Error::other(fault))
                }
            }
        })
    }
}
