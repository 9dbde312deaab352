use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use shoal_proto::NodeId;
use shoal_proto::message::{NodeMessage, PeerInfo, Place, TrackerMessage};
use shoal_proto::wire::v1;
use shoal_transport::{
    Bulk, ChunkServer, Cluster, Identity, LinkEvent, MutualTls, QuicConfig, QuicEndpoint, grpc,
};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

/// More messages than any test sends at once.
const QUEUE: usize = 4096;

/// A node that the test plays itself: it speaks the protocol with a key of its own, and says whatever the
/// test wants.
pub struct Member {
    pub identity: Identity,
    pub info: PeerInfo,
    pub endpoint: Arc<QuicEndpoint>,
    tls: MutualTls,
}

/// What the tracker says to a [`Member`], and the way to answer.
pub struct Session {
    outgoing: mpsc::Sender<v1::NodeMessage>,
    incoming: std::pin::Pin<Box<dyn tokio_stream::Stream<Item = TrackerMessage> + Send>>,
}

/// A tracker took no session.
#[derive(Debug, thiserror::Error)]
#[error("no session with the tracker: {0}")]
pub struct NotJoined(String);

impl Member {
    /// Has the authority of `cluster`, listens on loopback, and answers whoever asks for a chunk with `server`.
    pub fn new(cluster: &Cluster, server: Arc<dyn ChunkServer>) -> (Self, mpsc::Receiver<LinkEvent>) {
        let identity = Identity::generate().unwrap();
        let tls = MutualTls::new(cluster, &identity).unwrap();
        let (events, links) = mpsc::channel(QUEUE);
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let endpoint = QuicEndpoint::bind(QuicConfig::new(listen), &tls, server, events).unwrap();
        let info = PeerInfo {
            node: identity.node(),
            addresses: vec![endpoint.local_addr()],
            place: Place { zone: "zone0".into(), rack: "elsewhere".into() },
        };
        (Self { identity, info, endpoint: Arc::new(endpoint), tls }, links)
    }

    /// Makes sure of a link.
    pub async fn connect(&self, peer: PeerInfo) -> Result<(), shoal_transport::ConnectError> {
        self.endpoint.connect(peer).await
    }

    /// How others find a node at `address`.
    pub fn peer(node: NodeId, address: SocketAddr) -> PeerInfo {
        PeerInfo { node, addresses: vec![address], place: Place::default() }
    }

    /// Opens a session with the tracker at `url`; returns once the tracker welcomed this member.
    pub async fn session(&self, url: &str) -> Result<Session, NotJoined> {
        let failed = |error: &dyn std::fmt::Debug| NotJoined(format!("{error:?}"));
        let mut client = grpc::connect(url, &self.tls).await.map_err(|e| failed(&e))?;
        let (outgoing, messages) = mpsc::channel(QUEUE);
        outgoing.try_send((&NodeMessage::Hello(self.info.clone())).into()).unwrap();
        let incoming = client.session(ReceiverStream::new(messages)).await.map_err(|e| failed(&e))?;
        let incoming = incoming.into_inner().map_while(|message| message.ok()?.try_into().ok());
        let mut session = Session { outgoing, incoming: Box::pin(incoming) };
        match session.next().await {
            Some(TrackerMessage::Welcome { .. }) => Ok(session),
            other => Err(failed(&other)),
        }
    }
}

impl Session {
    pub fn send(&self, message: &NodeMessage) {
        // Fails where the tracker ended the session, which `next` tells.
        let _ = self.outgoing.try_send(message.into());
    }

    /// What the tracker says next; `None` once it ended the session.
    pub async fn next(&mut self) -> Option<TrackerMessage> {
        self.incoming.next().await
    }
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Member").field(&self.info).finish()
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}
