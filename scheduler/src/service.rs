//! The gRPC service: one session per node, both directions on one stream.

use std::net::IpAddr;
use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use shoal_proto::NodeId;
use shoal_proto::message::{NodeMessage, PeerInfo, TrackerMessage};
use shoal_proto::wire::v1;
use shoal_transport::grpc::Tracker;
use shoal_transport::node_of;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use crate::task::{SessionSender, TrackerHandle};

/// Serves the tracker to members of the cluster.
#[derive(Clone, Debug)]
pub struct TrackerService {
    tracker: TrackerHandle,
}

impl TrackerService {
    pub fn new(tracker: TrackerHandle) -> Self {
        Self { tracker }
    }
}

/// A node that listens on an unspecified address and does not know its own is reached where it called from.
fn with_remote(mut peer: PeerInfo, remote: Option<IpAddr>) -> PeerInfo {
    if let Some(remote) = remote {
        for address in &mut peer.addresses {
            if address.ip().is_unspecified() {
                address.set_ip(remote);
            }
        }
    }
    peer
}

#[tonic::async_trait]
impl Tracker for TrackerService {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::TrackerMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let node = node_of(&request).ok_or_else(|| Status::unauthenticated("no certificate of a node"))?;
        let remote = request.remote_addr().map(|address| address.ip().to_canonical());
        let mut messages = request.into_inner();
        let first = messages.message().await?.ok_or_else(|| Status::invalid_argument("an empty session"))?;
        let hello = NodeMessage::try_from(first).map_err(|error| refused(node, &error))?;
        let NodeMessage::Hello(peer) = hello else {
            return Err(Status::failed_precondition("a session starts with Hello"));
        };
        // The certificate says who it is, whatever the message says.
        let peer = with_remote(PeerInfo { node, ..peer }, remote);
        info!(%node, zone = %peer.place.zone, addresses = ?peer.addresses, "node connected");
        let (sender, outgoing) = self.tracker.open(peer).await.map_err(|_| stopping())?;
        tokio::spawn(receive(node, messages, sender));
        let outgoing = ReceiverStream::new(outgoing).map(|message: TrackerMessage| Ok((&message).into()));
        Ok(Response::new(Box::pin(outgoing)))
    }
}

fn stopping() -> Status {
    Status::unavailable("the scheduler is stopping")
}

fn refused(node: NodeId, error: &shoal_proto::wire::WireError) -> Status {
    warn!(%node, %error, "malformed message; the session ends");
    Status::invalid_argument(error.to_string())
}

/// Feeds the tracker until the node goes, breaks the protocol, or the tracker stops.
async fn receive(node: NodeId, messages: Streaming<v1::NodeMessage>, sender: SessionSender) {
    pass_on(node, messages, sender).await;
    info!(%node, "node disconnected");
}

async fn pass_on(node: NodeId, mut messages: Streaming<v1::NodeMessage>, mut sender: SessionSender) {
    loop {
        let message = match messages.message().await {
            Ok(Some(message)) => message,
            Ok(None) => return,
            Err(status) => {
                debug!(%node, %status, "session broke");
                return;
            }
        };
        match NodeMessage::try_from(message) {
            Ok(message) => {
                if sender.send(message).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                refused(node, &error);
                return;
            }
        }
    }
}
