//! What bulk transport offers: links between neighbours that carry messages and chunks.
//!
//! A *link* joins two nodes, however many connections were tried for it. While it is up, messages arrive in the
//! order they were sent, none is lost; a chunk is asked for and answered on its own stream, so none waits
//! for another. After `Down` nothing is promised of what was sent: start over when it is `Up` again.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use shoal_proto::NodeId;
use shoal_proto::message::{ChunkRequest, PeerInfo, PeerMessage, RangeRequest};
use tokio::sync::watch;

use crate::quic::FrameError;

/// Answers neighbours who ask for chunks.
pub trait ChunkServer: Send + Sync + 'static {
    /// Runs on the transport's own thread, as does the body: neither may block or compute for long. Dropped
    /// when the neighbour cancels.
    fn serve(&self, from: NodeId, request: ChunkRequest) -> BoxFuture<'static, Served>;

    /// The same for exact bytes of a layer. Who has no layers serves none.
    fn serve_range(&self, _from: NodeId, _request: RangeRequest) -> BoxFuture<'static, Served> {
        Box::pin(std::future::ready(Served::NotHeld))
    }
}

/// The answer to a neighbour who asks for a chunk.
pub enum Served {
    /// The body has exactly `len` bytes. An error in it is told to the neighbour as a failure.
    Sending { len: u32, body: BoxStream<'static, io::Result<Bytes>> },
    /// All upload slots are taken.
    Busy,
    /// The chunk is not here, or not with an entry.
    NotHeld,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sending { len, .. } => f.debug_struct("Sending").field("len", len).finish_non_exhaustive(),
            Self::Busy => f.write_str("Busy"),
            Self::NotHeld => f.write_str("NotHeld"),
        }
    }
}

/// What happened on links. For each link: `Up`, then its messages, then `Down`.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant, reason = "nearly every event is a message")]
pub enum LinkEvent {
    Up(NodeId),
    Down(NodeId),
    Message(NodeId, PeerMessage),
}

/// What a neighbour answered when asked for a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchedChunk {
    /// As many bytes as were expected, not checked against anything.
    Bytes(Bytes),
    Busy,
    NotHeld,
}

/// Why a node was not reached.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{node} has no address that this node can use")]
    NoAddress { node: NodeId },
    #[error("connect to {node} at {address}: {source}")]
    Unreachable { node: NodeId, address: SocketAddr, source: quinn::ConnectionError },
    #[error("{address} is {got}, not {expected}")]
    WrongNode { address: SocketAddr, expected: NodeId, got: NodeId },
    #[error("{node} is this node itself")]
    Itself { node: NodeId },
    #[error("{node} did not take the link within {waited:?}")]
    NotTaken { node: NodeId, waited: Duration },
    #[error("this node already has {limit} links")]
    TooMany { limit: usize },
    #[error("the endpoint is closed")]
    Closed,
}

/// Why a message was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("there is no link to {0}")]
    NotConnected(NodeId),
    #[error("{0} reads too slowly, the link is closed")]
    Overflow(NodeId),
    #[error("a message of {len} bytes is larger than {limit}")]
    TooLarge { len: usize, limit: usize },
}

/// Why a neighbour did not give a chunk.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FetchError {
    #[error("there is no link to {0}")]
    NotConnected(NodeId),
    #[error("the link to {node} ended: {source}")]
    LinkLost { node: NodeId, source: quinn::ConnectionError },
    #[error("{0} gave up sending the chunk")]
    Aborted(NodeId),
    #[error("{node} sent nothing for {waited:?}")]
    Stalled { node: NodeId, waited: Duration },
    #[error("{node} announced {announced} bytes, the chunk has {expected}")]
    WrongLength { node: NodeId, announced: u32, expected: u32 },
    #[error("{node} ended the chunk after {got} of {expected} bytes")]
    TooShort { node: NodeId, got: usize, expected: u32 },
    #[error("{node} sent more than the {expected} bytes of the chunk")]
    TooLong { node: NodeId, expected: u32 },
    #[error("{node} answered with a malformed frame: {source}")]
    Frame { node: NodeId, source: FrameError },
    #[error("the endpoint is closed")]
    Closed,
}

/// A link as it stands, for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkStats {
    pub node: NodeId,
    pub address: SocketAddr,
    /// Bytes of UDP payload since the link came up.
    pub sent: u64,
    pub received: u64,
    pub rtt: Duration,
    /// How often large packets stopped getting through: a sign of an MTU that is set too high on the way.
    pub black_holes_detected: u64,
}

/// Bulk transport behind a trait, so that another one can be measured beside it.
pub trait Bulk: Send + Sync + 'static {
    /// Makes sure that there is a link. Ends well at once where there is one.
    fn connect(&self, peer: PeerInfo) -> BoxFuture<'static, Result<(), ConnectError>>;

    /// Queues a message. A neighbour that lets the queue overflow loses its link.
    fn send(&self, to: NodeId, message: &PeerMessage) -> Result<(), SendError>;

    /// Asks a neighbour for a chunk of `expected` bytes. Dropping the future cancels. A neighbour that breaks
    /// the protocol loses its link.
    fn fetch(
        &self,
        from: NodeId,
        request: ChunkRequest,
        expected: u32,
    ) -> BoxFuture<'static, Result<FetchedChunk, FetchError>>;

    /// Asks a member for exact bytes of a layer, as [`Self::fetch`] does for a chunk. Bytes are added to `arrived` as
    /// they come.
    fn fetch_range(
        &self,
        from: NodeId,
        request: RangeRequest,
        arrived: watch::Sender<u64>,
    ) -> BoxFuture<'static, Result<FetchedChunk, FetchError>>;

    /// Ends a link, if there is one.
    fn disconnect(&self, node: NodeId);

    /// The links that are up.
    fn links(&self) -> Vec<LinkStats>;

    /// Answers BUSY from now on, lets what is being sent end until `deadline` has passed, then ends all links.
    fn close(&self, deadline: Duration) -> BoxFuture<'static, ()>;
}
