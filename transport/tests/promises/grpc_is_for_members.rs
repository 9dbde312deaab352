use std::pin::Pin;

use futures_util::{Stream, StreamExt};
use shoal_proto::NodeId;
use shoal_proto::message::{NodeMessage, TrackerMessage};
use shoal_proto::wire::v1;
use shoal_transport::grpc::{self, Tracker};
use shoal_transport::{Cluster, Identity, MutualTls, node_of};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::support::{request, soon, tls};

/// Tells who called, and answers each message with the round of its swarm.
pub(crate) struct Echo(pub(crate) mpsc::UnboundedSender<Option<NodeId>>);

#[tonic::async_trait]
impl Tracker for Echo {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::TrackerMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        self.0.send(node_of(&request)).unwrap();
        let replies = request.into_inner().map(|message| match NodeMessage::try_from(message?) {
            Ok(NodeMessage::Mismatch(swarm)) => {
                Ok((&TrackerMessage::Round { swarm, readers: vec![] }).into())
            }
            other => Err(Status::invalid_argument(format!("{other:?}"))),
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

/// Serves as node 1; its URL, and who called.
async fn serve() -> (String, mpsc::UnboundedReceiver<Option<NodeId>>) {
    let (called, calls) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let server = grpc::server(&tls(1)).unwrap().add_service(grpc::tracker_service(Echo(called)));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (url, calls)
}

#[tokio::test]
async fn a_session_round_trip() {
    let (url, mut calls) = serve().await;
    let mut client = soon("a connection", grpc::connect(&url, &tls(2))).await.unwrap();
    let (sender, receiver) = mpsc::channel(4);
    let mut replies =
        soon("a session", client.session(ReceiverStream::new(receiver))).await.unwrap().into_inner();
    assert_eq!(calls.recv().await, Some(Some(tls(2).node())));
    let swarm = request(0).swarm;
    for _ in 0..3 {
        sender.send((&NodeMessage::Mismatch(swarm.clone())).into()).await.unwrap();
        let reply = soon("a reply", replies.message()).await.unwrap().unwrap();
        assert_eq!(
            TrackerMessage::try_from(reply).unwrap(),
            TrackerMessage::Round { swarm: swarm.clone(), readers: vec![] }
        );
    }
}

#[tokio::test]
async fn strangers_are_refused() {
    let (url, mut calls) = serve().await;
    let other = Cluster::from_secret(b"fedcba9876543210fedcba9876543210").unwrap();
    let stranger = MutualTls::new(&other, &Identity::from_seed([2; 32]).unwrap()).unwrap();
    assert!(soon("a refusal", grpc::connect(&url, &stranger)).await.is_err());
    assert!(calls.try_recv().is_err());
}
