//! What the store loses of a blob between its digest's match and the moment at which the swarm hears of that.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shoal_origin::{Identity, Kind, Origins, OriginsConfig};
use shoal_proto::message::{ChunkRequest, Held, PeerInfo, PeerMessage, Proof, RangeRequest};
use shoal_proto::{Attestation, ChunkIndex, Keypair, NodeId, SignedAttestation, SwarmId};
use shoal_store::{Store, StoreConfig};
use shoal_swarm::peer::{PeerConfig, PeerMachine};
use shoal_transport::{Bulk, ConnectError, FetchError, FetchedChunk, LinkStats, RateLimit, SendError};
use tokio::sync::{Semaphore, watch};

use super::{Driver, DriverParts, Joining, SwarmHandle, TrackerLink, Unreachable};
use crate::blobs::{ActiveBlob, OriginContext, Phase, Wanted};
use crate::lazy::Indexer;
use crate::metrics::Metrics;
use crate::testing::put;

/// A node that is alone.
struct NoLinks;

impl Bulk for NoLinks {
    fn connect(&self, _: PeerInfo) -> BoxFuture<'static, Result<(), ConnectError>> {
        async { Err(ConnectError::Closed) }.boxed()
    }

    fn send(&self, to: NodeId, _: &PeerMessage) -> Result<(), SendError> {
        Err(SendError::NotConnected(to))
    }

    fn fetch(
        &self,
        _: NodeId,
        _: ChunkRequest,
        _: u32,
    ) -> BoxFuture<'static, Result<FetchedChunk, FetchError>> {
        async { Err(FetchError::Closed) }.boxed()
    }

    fn fetch_range(
        &self,
        _: NodeId,
        _: RangeRequest,
        _: watch::Sender<u64>,
    ) -> BoxFuture<'static, Result<FetchedChunk, FetchError>> {
        async { Err(FetchError::Closed) }.boxed()
    }

    fn disconnect(&self, _: NodeId) {}

    fn links(&self) -> Vec<LinkStats> {
        Vec::new()
    }

    fn close(&self, _: Duration) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

/// A node whose store has just found that a blob of two chunks has its digest; its driver does not know it yet.
struct Case {
    driver: Driver,
    store: Store,
    blob: Arc<ActiveBlob>,
    swarm: SwarmId,
    signed: SignedAttestation,
    _folder: tempfile::TempDir,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig { reserve_bytes: 0, ..StoreConfig::new(folder.path()) }).unwrap();
        let key = Keypair::ed25519_from_bytes([7; 32]).unwrap();
        let me = NodeId::from_bytes([7; 32]);
        let machine = PeerMachine::new(
            PeerInfo { node: me, addresses: Vec::new(), place: Default::default() },
            PeerConfig::default(),
            1,
        );
        let parts = DriverParts {
            me,
            key: key.clone(),
            store: store.clone(),
            bulk: Arc::new(NoLinks),
            origins: Origins::new(OriginsConfig::default()).unwrap(),
            origin_limit: Arc::new(RateLimit::new(None)),
            handle: SwarmHandle::new().0,
            metrics: Metrics::default(),
            memory: Arc::new(Semaphore::new(1)),
            unreachable: Unreachable::default(),
            indexer: Indexer::off(),
        };
        let mut driver = Driver::new(parts, machine, TrackerLink::default());
        let swarm = put(&store, &Bytes::from(vec![1; 600 << 10]));
        let context = OriginContext {
            repository: "team/app".parse().unwrap(),
            kind: Kind::Blob,
            identity: Identity::Anonymous,
            fallback: Identity::Anonymous,
        };
        let wanted =
            Wanted { digest: swarm.digest, size: swarm.size, registry: swarm.origin.clone(), context };
        let blob = Arc::new(ActiveBlob::new(wanted, swarm.layout().unwrap()));
        let map = store.map(&swarm.digest).unwrap();
        let signed = Attestation { swarm: swarm.clone(), root: map.root(), signer: me }.sign(&key).unwrap();
        let proof = Proof::Map { values: map.values().to_vec(), attestation: Box::new(signed.clone()) };
        driver.join(Joining { blob: blob.clone(), held: Held::Complete, proof: Some(proof) });
        Self { driver, store, blob, swarm, signed, _folder: folder }
    }

    /// What the store loses is told to the driver at once, then that the blob has its digest.
    fn told(&mut self, chunks: Option<Vec<ChunkIndex>>) {
        self.driver.lost_complete(self.swarm.digest, chunks);
        self.driver.verified(self.signed.clone(), true);
    }
}

#[tokio::test]
async fn a_blob_that_went_before_it_was_said_to_be_complete_is_not_served() {
    let mut case = Case::new();
    case.store.remove(&case.swarm.digest).unwrap();
    case.told(None);
    assert!(case.driver.complete.is_empty() && case.driver.machine.snapshot().swarms.is_empty());
    assert!(matches!(case.blob.phase(), Phase::Failed(_)), "{:?}", case.blob.phase());
}

#[tokio::test]
async fn a_chunk_that_went_before_the_blob_was_said_to_be_complete_is_taken_back() {
    let mut case = Case::new();
    let file = std::fs::read_dir(case.store.dir().join("blobs")).unwrap().next().unwrap().unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(file.path()).unwrap();
    file.write_all_at(b"flipped", 0).unwrap();
    let mut losses = case.store.losses();
    case.store.reader(&case.swarm.digest).unwrap().read(0..7).unwrap_err();
    losses.recv().await.unwrap();
    case.told(Some(vec![ChunkIndex(0)]));
    assert_eq!(case.blob.phase(), Phase::Complete);
    let swarms = case.driver.machine.snapshot().swarms;
    assert_eq!((swarms.len(), swarms[0].held), (1, 1), "{swarms:?}");
}
