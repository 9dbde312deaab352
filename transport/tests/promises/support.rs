//! Nodes on the loopback interface, honest ones and liars.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream;
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, ServerConfig};
use shoal_proto::message::{ChunkRequest, PeerInfo, PeerMessage, Place};
use shoal_proto::{ChunkIndex, Digest, NodeId, SwarmId};
use shoal_transport::{
    Bulk, ChunkServer, Cluster, FetchError, FetchedChunk, Identity, LinkEvent, MutualTls, QuicConfig,
    QuicEndpoint, Served,
};
use tokio::sync::mpsc;

pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
pub(crate) const MIB: usize = 1 << 20;

/// A test that waits longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("{what}: nothing happened"))
}

pub(crate) fn tls(seed: u8) -> MutualTls {
    let cluster = Cluster::from_secret(SECRET).unwrap();
    MutualTls::new(&cluster, &Identity::from_seed([seed; 32]).unwrap()).unwrap()
}

/// Two seeds, that of the lesser node first.
pub(crate) fn ordered_seeds() -> (u8, u8) {
    if tls(1).node() < tls(2).node() { (1, 2) } else { (2, 1) }
}

/// A blob of 64 MiB.
pub(crate) fn request(index: u32) -> ChunkRequest {
    let swarm = SwarmId {
        digest: Digest::sha256([1; 32]),
        size: 64 * MIB as u64,
        origin: "docker.io".parse().unwrap(),
        round: 0,
    };
    ChunkRequest { swarm, index: ChunkIndex(index) }
}

pub(crate) fn message(round: u32) -> PeerMessage {
    PeerMessage::Leave(SwarmId { round, ..request(0).swarm })
}

/// Answers by calling a function.
pub(crate) struct Serve<F>(pub(crate) F);

impl<F> ChunkServer for Serve<F>
where
    F: Fn(NodeId, ChunkRequest) -> Served + Send + Sync + 'static,
{
    fn serve(&self, from: NodeId, request: ChunkRequest) -> BoxFuture<'static, Served> {
        Box::pin(std::future::ready((self.0)(from, request)))
    }
}

pub(crate) fn nothing() -> Arc<dyn ChunkServer> {
    Arc::new(Serve(|_, _| Served::NotHeld))
}

/// Sends these bytes in these parts.
pub(crate) fn sending(len: usize, parts: Vec<Bytes>) -> Served {
    Served::Sending { len: len as u32, body: Box::pin(stream::iter(parts.into_iter().map(Ok))) }
}

/// An honest node.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) endpoint: QuicEndpoint,
    events: mpsc::Receiver<LinkEvent>,
}

pub(crate) fn config() -> QuicConfig {
    QuicConfig::new("127.0.0.1:0".parse().unwrap())
}

pub(crate) fn info(node: NodeId, address: SocketAddr) -> PeerInfo {
    PeerInfo { node, addresses: vec![address], place: Place::default() }
}

impl Node {
    pub(crate) fn new(seed: u8, server: Arc<dyn ChunkServer>) -> Self {
        Self::with(config(), &tls(seed), server)
    }

    pub(crate) fn with(config: QuicConfig, tls: &MutualTls, server: Arc<dyn ChunkServer>) -> Self {
        let (sender, events) = mpsc::channel(64);
        let endpoint = QuicEndpoint::bind(config, tls, server, sender).unwrap();
        Self { id: tls.node(), endpoint, events }
    }

    pub(crate) fn info(&self) -> PeerInfo {
        info(self.id, self.endpoint.local_addr())
    }

    pub(crate) async fn event(&mut self) -> LinkEvent {
        soon("an event", self.events.recv()).await.unwrap()
    }

    /// Events that are there already.
    pub(crate) fn events(&mut self) -> Vec<LinkEvent> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }

    /// Calls another node; both know of the link.
    pub(crate) async fn link(&mut self, other: &mut Node) {
        soon("a link", self.endpoint.connect(other.info())).await.unwrap();
        assert_eq!(self.event().await, LinkEvent::Up(other.id));
        assert_eq!(other.event().await, LinkEvent::Up(self.id));
    }

    pub(crate) async fn fetch(&self, from: NodeId, expected: usize) -> Result<FetchedChunk, FetchError> {
        soon("a chunk", self.endpoint.fetch(from, request(3), expected as u32)).await
    }
}

/// A member that speaks QUIC as it likes.
pub(crate) struct Liar {
    pub(crate) id: NodeId,
    pub(crate) endpoint: Endpoint,
}

impl Liar {
    pub(crate) fn new(seed: u8) -> Self {
        let tls = tls(seed);
        let server = ServerConfig::with_crypto(Arc::new(tls.quic_server(b"shoal/2").unwrap()));
        let client = ClientConfig::new(Arc::new(tls.quic_client(b"shoal/2").unwrap()));
        let mut endpoint = Endpoint::server(server, "127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(client);
        Self { id: tls.node(), endpoint }
    }

    /// Calls an honest node and behaves until the link is up.
    pub(crate) async fn link(&self, node: &mut Node) -> Link {
        let connecting = self.endpoint.connect(node.endpoint.local_addr(), "shoal.cluster").unwrap();
        let connection = soon("a connection", connecting).await.unwrap();
        let mut sender = connection.open_uni().await.unwrap();
        sender.write_all(b"instance").await.unwrap();
        assert_eq!(node.event().await, LinkEvent::Up(self.id));
        let mut receiver = soon("a control stream", connection.accept_uni()).await.unwrap();
        receiver.read_exact(&mut [0; 8]).await.unwrap();
        Link { connection, sender, _receiver: receiver }
    }
}

/// A liar's end of a link.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) sender: SendStream,
    _receiver: RecvStream,
}

/// A message in its frame.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u32).to_be_bytes(), message].concat()
}
