//! Gives chunks to neighbours: admitted by the machine, read from the store, checked on the way.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use shoal_proto::NodeId;
use shoal_proto::message::ChunkRequest;
use shoal_store::{ReadError, Reader, Store};
use shoal_swarm::peer::Admission;
use shoal_transport::{ChunkServer, Served};
use tracing::debug;

use super::SwarmHandle;
use super::inbox::Slot;
use crate::blobs::{BlockBudget, ReadFault};
use crate::metrics::Metrics;

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
        let store = self.store.clone();
        let swarm = request.swarm.clone();
        let opened = tokio::task::spawn_blocking(move || open(&store, &swarm)).await;
        let reader = match opened {
            Ok(Ok(reader)) if reader.holds(request.index) => reader,
            Ok(Err(error)) => {
                debug!(digest = %request.swarm.digest, chunk = %request.index, %error, "not served");
                return Served::NotHeld;
            }
            _ => return Served::NotHeld,
        };
        let range = reader.layout().range(request.index);
        match u32::try_from(range.end - range.start) {
            Ok(len) => Served::Sending { len, body: body(self.budget, self.metrics, reader, range, slot) },
            Err(_) => Served::NotHeld,
        }
    }
}

/// A complete blob serves every swarm of its digest.
fn open(store: &Store, swarm: &shoal_proto::SwarmId) -> Result<Reader, ReadError> {
    match store.reader(&swarm.digest) {
        Ok(reader) if reader.layout().size() == swarm.size => Ok(reader),
        _ => store.partial_reader(swarm),
    }
}

fn body(
    budget: BlockBudget,
    metrics: Metrics,
    reader: Reader,
    range: Range<u64>,
    slot: Slot,
) -> BoxStream<'static, io::Result<Bytes>> {
    let state = (Some(reader), range, slot);
    futures_util::stream::unfold(state, move |(reader, range, slot)| {
        let (budget, metrics) = (budget.clone(), metrics.clone());
        async move {
            let reader = reader.filter(|_| !range.is_empty())?;
            let (reader, read) = budget.read(reader, range.clone()).await;
            match read {
                Ok(piece) => {
                    let next = range.start + piece.bytes.len() as u64..range.end;
                    Some((Ok(piece.bytes), (reader, next, slot)))
                }
                // The neighbour sees the stream end early, and asks elsewhere.
                Err(error) => {
                    if matches!(error, ReadFault::Read(ReadError::Corrupt { .. })) {
                        metrics.chunks_corrupt.inc();
                    }
                    Some((Err(io::Error::other(error)), (None, range, slot)))
                }
            }
        }
    })
    .boxed()
}
