//! Gives other members exact bytes of layers and of their indexes.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use shoal_proto::message::{ChunkRequest, Part, RangeRequest};
use shoal_proto::{ChunkIndex, Digest, NodeId};
use shoal_store::IndexFact;
use shoal_swarm::peer::Admission;
use shoal_transport::{ChunkServer, Served};
use tokio::sync::Semaphore;
use tracing::debug;

use super::indexer::Indexer;
use super::ranges::open_index;
use crate::swarm::{SwarmServer, open};

/// Ranges that are sent at once. Apart from the slots of chunks: a reader waits for each, and a span takes a tenth of
/// what a chunk does.
const AT_ONCE: usize = 16;
/// Pieces of one range that may be in memory.
const PIECES: u16 = 4;

/// Answers members who ask for chunks, and for ranges.
#[derive(Clone, Debug)]
pub(crate) struct PeerServer {
    chunks: SwarmServer,
    indexer: Indexer,
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
    pub(crate) fn new(chunks: SwarmServer, indexer: Indexer) -> Self {
        Self { chunks, indexer, places: Arc::new(Semaphore::new(AT_ONCE)) }
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
        if part == Part::Claim {
            return self.claim(&swarm.digest, range).await;
        }
        let store = self.chunks.store.clone();
        let open = move || match part {
            Part::Index(file) => open_index(&store, &swarm, &file),
            _ => open(&store, &swarm),
        };
        self.chunks.send(open, range, PIECES, place).await.unwrap_or_else(|error| {
            debug!(peer = %from, %error, "no range");
            Served::NotHeld
        })
    }

    /// What this node says of the index that it built.
    async fn claim(&self, layer: &Digest, range: Range<u64>) -> Served {
        let Ok(len) = u32::try_from(range.end.saturating_sub(range.start)) else { return Served::NotHeld };
        let (store, indexer, layer) = (self.chunks.store.clone(), self.indexer.clone(), *layer);
        let fact = tokio::task::spawn_blocking(move || {
            let fact = store.index(&layer);
            if matches!(fact, Ok(None)) {
                indexer.is_missed(&store, &layer);
            }
            fact
        });
        let fact = fact.await;
        match fact {
            Ok(Ok(Some(IndexFact::Built { claim, .. }))) if claim.len() as u64 == u64::from(len) => {
                Served::Sending { len, body: stream::iter([Ok(Bytes::from(claim))]).boxed() }
            }
            _ => Served::NotHeld,
        }
    }
}

#[cfg(test)]
mod tests {
    use shoal_store::{Store, StoreConfig};

    use super::*;
    use crate::blobs::BlockBudget;
    use crate::swarm::SwarmHandle;
    use crate::testing::put;

    #[tokio::test]
    async fn a_member_that_asks_for_the_claim_of_a_whole_layer_without_index_has_it_built() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig { reserve_bytes: 0, ..StoreConfig::new(dir.path()) }).unwrap();
        let layer = put(&store, &b"some layer".to_vec().into());
        let (indexer, layers) = Indexer::new();
        let chunks = SwarmServer { store, swarm: SwarmHandle::new().0, budget: BlockBudget::new(1 << 20) };
        let server = PeerServer::new(chunks, indexer);
        assert!(matches!(server.claim(&layer.digest, 0..1).await, Served::NotHeld));
        assert_eq!(layers.try_recv(), Ok(layer));
    }
}
