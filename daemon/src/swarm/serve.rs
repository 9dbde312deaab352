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

use super::{Input, SwarmHandle};
use crate::blobs::BlockBudget;

/// Answers neighbours who ask for chunks.
#[derive(Clone, Debug)]
pub(crate) struct SwarmServer {
    pub store: Store,
    pub swarm: SwarmHandle,
    pub budget: BlockBudget,
}

/// An upload slot; given back when the upload ends, however it ends.
struct Slot {
    swarm: SwarmHandle,
    to: NodeId,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.swarm.send_later(Input::UploadEnded(self.to));
    }
}

impl ChunkServer for SwarmServer {
    fn serve(&self, from: NodeId, request: ChunkRequest) -> BoxFuture<'static, Served> {
        self.clone().answer(from, request).boxed()
    }
}

impl SwarmServer {
    async fn answer(self, from: NodeId, request: ChunkRequest) -> Served {
        match self.swarm.admit(from, request.clone()).await {
            Admission::Busy => return Served::Busy,
            Admission::NotHeld => return Served::NotHeld,
            Admission::Serve { .. } => {}
        }
        let slot = Slot { swarm: self.swarm.clone(), to: from };
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
            Ok(len) => Served::Sending { len, body: body(self.budget, reader, range, slot) },
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
    reader: Reader,
    range: Range<u64>,
    slot: Slot,
) -> BoxStream<'static, io::Result<Bytes>> {
    let state = (Some(reader), range, slot);
    futures_util::stream::unfold(state, move |(reader, range, slot)| {
        let budget = budget.clone();
        async move {
            let reader = reader.filter(|_| !range.is_empty())?;
            let (reader, read) = budget.read(reader, range.clone()).await;
            match read {
                Ok(piece) => {
                    let next = range.start + piece.bytes.len() as u64..range.end;
                    Some((Ok(piece.bytes), (reader, next, slot)))
                }
                // The neighbour sees the stream end early, and asks elsewhere.
                Err(error) => Some((Err(io::Error::other(error)), (None, range, slot))),
            }
        }
    })
    .boxed()
}
