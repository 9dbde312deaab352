//! Gives other members exact bytes of layers and of their indexes.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt, StreamExt};
use shoal_proto::message::{ChunkRequest, Part, RangeRequest};
use shoal_proto::{ChunkIndex, NodeId, SignedIndexClaim};
use shoal_store::{IndexFact, ReadError, Reader, Store};
use shoal_swarm::peer::Admission;
use shoal_transport::{ChunkServer, Served};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::debug;

use super::ranges::open_index;
use crate::blobs::{Body, Next};
use crate::swarm::SwarmServer;

/// Ranges that are sent at once. Apart from the slots of chunks: a reader waits for each, and a span takes a tenth of
/// what a chunk does.
const AT_ONCE: usize = 16;
/// Pieces of one range that may be in memory.
const PIECES: u16 = 4;

/// Answers members who ask for chunks, and for ranges.
#[derive(Clone, Debug)]
pub(crate) struct PeerServer {
    chunks: SwarmServer,
    places: Arc<Semaphore>,
}

impl ChunkServer for PeerServer {
    fn serve(&self, from: NodeId, request: ChunkRequest) -> BoxFuture<'static, Served> {
        self.chunks.serve(from, request)
    }

    fn serve_range(&self, from: NodeId, request: RangeRequest) -> BoxFuture<'static, Served> {
        self.clone().answer(from, request).boxed()
    }
}

impl PeerServer {
    pub(crate) fn new(chunks: SwarmServer) -> Self {
        Self { chunks, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    async fn answer(self, from: NodeId, request: RangeRequest) -> Served {
        let RangeRequest { swarm, part, range } = request;
        let Ok(layout) = swarm.layout() else { return Served::NotHeld };
        // Who may have a chunk of the layer may have what belongs to the layer. The slot is given back at once.
        let index = if part == Part::Layer { layout.chunk_at(range.start) } else { ChunkIndex(0) };
        let chunk = ChunkRequest { swarm: swarm.clone(), index };
        if matches!(self.chunks.swarm.admit(from, chunk).await, (Admission::NotHeld, _)) {
            return Served::NotHeld;
        }
        // Few wait, and not for long; a member that does not care to wait asks another one.
        let Ok(place) = self.places.clone().acquire_owned().await else { return Served::NotHeld };
        let Ok(len) = u32::try_from(range.end.saturating_sub(range.start)) else { return Served::NotHeld };
        if part == Part::Claim {
            return self.claim(&swarm.digest, len).await;
        }
        let store = self.chunks.store.clone();
        let open = move || open(&store, &swarm, part);
        let body = self.chunks.budget.body(PIECES);
        // The first piece tells whether there is anything to announce.
        match body.read(Next::Open(Box::new(open)), range.clone()).await {
            Ok((first, next)) => {
                let rest = range.start + first.len() as u64..range.end;
                let sending = Sending { body, next, rest, _place: place };
                let first = stream::once(std::future::ready(Ok(first)));
                Served::Sending { len, body: first.chain(sending.pieces()).boxed() }
            }
            Err(error) => {
                debug!(peer = %from, ?part, ?range, %error, "no range");
                Served::NotHeld
            }
        }
    }

    /// What this node says of the index that it built.
    async fn claim(&self, layer: &shoal_proto::Digest, len: u32) -> Served {
        let (store, layer) = (self.chunks.store.clone(), *layer);
        let fact = tokio::task::spawn_blocking(move || store.index(&layer)).await;
        match fact {
            Ok(Ok(Some(IndexFact::Built { claim, .. }))) if len as usize == SignedIndexClaim::LEN => {
                let claim = stream::once(std::future::ready(Ok(Bytes::from(claim))));
                Served::Sending { len, body: claim.boxed() }
            }
            _ => Served::NotHeld,
        }
    }
}

fn open(store: &Store, layer: &shoal_proto::SwarmId, part: Part) -> Result<Reader, ReadError> {
    match part {
        Part::Index(file) => open_index(store, layer, &file),
        _ => match store.reader(&layer.digest) {
            Ok(reader) if reader.layout().size() == layer.size => Ok(reader),
            _ => store.partial_reader(layer),
        },
    }
}

/// What is left of a range on its way.
struct Sending {
    body: Body,
    next: Next,
    rest: Range<u64>,
    _place: OwnedSemaphorePermit,
}

impl Sending {
    fn pieces(self) -> BoxStream<'static, io::Result<Bytes>> {
        let pieces = stream::try_unfold(self, |mut sending| async move {
            if sending.rest.is_empty() {
                return Ok(None);
            }
            let read = sending.body.read(sending.next, sending.rest.clone()).await;
            // The member sees the stream end early, and asks elsewhere.
            let (bytes, next) = read.map_err(io::Error::other)?;
            sending.rest.start += bytes.len() as u64;
            Ok(Some((bytes, Self { next, ..sending })))
        });
        pieces.boxed()
    }
}
