//! Connects: calls nodes, and takes calls.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, Incoming};
use rustls_pki_types::CertificateDer;
use shoal_proto::NodeId;
use shoal_proto::message::PeerInfo;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::config::LINKS;
use super::links::Close;
use super::session::{HANDSHAKE, Session};
use super::shared::Shared;
use crate::ConnectError;
use crate::cluster::SERVER_NAME;
use crate::tls::node_of_chain;

/// The member at the other end.
fn peer_of(connection: &Connection) -> Option<NodeId> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    node_of_chain(&chain)
}

/// Takes calls until the endpoint closes.
pub(super) async fn accept(shared: Arc<Shared>, endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        // Twice as many as links: both ends may call at once. A flood of calls costs no more than this.
        if endpoint.open_connections() >= 2 * LINKS {
            incoming.refuse();
            continue;
        }
        tokio::spawn(answer_call(shared.clone(), incoming));
    }
}

async fn answer_call(shared: Arc<Shared>, incoming: Incoming) {
    let from = incoming.remote_address();
    let connection = match timeout(HANDSHAKE, async { incoming.await }).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::info!(%from, %error, "a call was refused"),
        Err(_) => return tracing::info!(%from, "a call came to nothing"),
    };
    match peer_of(&connection) {
        Some(peer) if peer != shared.node => {
            if let Some(session) = Session::open(&shared, connection, peer).await {
                session.run(shared).await;
            }
        }
        _ => Close::WrongNode.close(&connection),
    }
}

/// Makes sure that there is a link to a node: tries its addresses one after the other.
pub(super) async fn connect(
    shared: Arc<Shared>,
    endpoint: Endpoint,
    client: ClientConfig,
    peer: PeerInfo,
) -> Result<(), ConnectError> {
    let node = peer.node;
    if node == shared.node {
        return Err(ConnectError::Itself { node });
    }
    if shared.links.connection(node).is_some() {
        return Ok(());
    }
    shared.links.has_room()?;
    let mut last = ConnectError::NoAddress { node };
    for address in peer.addresses {
        match call(&endpoint, client.clone(), node, address).await {
            Ok(connection) => return take(shared, connection, node).await,
            // An address of the other family, where the socket has but one, says nothing of the others.
            Err(ConnectError::NoAddress { .. }) => {}
            Err(error) => last = error,
        }
        if shared.links.connection(node).is_some() {
            return Ok(());
        }
    }
    Err(last)
}

async fn call(
    endpoint: &Endpoint,
    client: ClientConfig,
    node: NodeId,
    address: SocketAddr,
) -> Result<Connection, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable { node, address, source };
    let connecting = endpoint.connect_with(client, address, SERVER_NAME).map_err(|error| match error {
        quinn::ConnectError::EndpointStopping => ConnectError::Closed,
        _ => ConnectError::NoAddress { node },
    })?;
    let connection = timeout(HANDSHAKE, connecting)
        .await
        .map_err(|_| unreachable(ConnectionError::TimedOut))?
        .map_err(unreachable)?;
    match peer_of(&connection) {
        Some(got) if got == node => Ok(connection),
        got => {
            Close::WrongNode.close(&connection);
            let got = got.unwrap_or(NodeId::from_bytes([0; 32]));
            Err(ConnectError::WrongNode { address, expected: node, got })
        }
    }
}

/// Makes the connection the link, unless another one becomes it. Goes on when nobody waits for it any more:
/// the other end may have taken the link by then.
async fn take(shared: Arc<Shared>, connection: Connection, node: NodeId) -> Result<(), ConnectError> {
    let (opened, is_link) = oneshot::channel();
    tokio::spawn({
        let shared = shared.clone();
        async move {
            let session = Session::open(&shared, connection, node).await;
            // Fails when nobody waits.
            let _ = opened.send(session.is_some());
            if let Some(session) = session {
                session.run(shared).await;
            }
        }
    });
    if is_link.await.unwrap_or(false) {
        return Ok(());
    }
    // The other end called too, and that call is the link: it is there, or nearly.
    let waited = timeout(HANDSHAKE, shared.links.wait_for(node)).await;
    waited.map_err(|_| ConnectError::NotTaken { node, waited: HANDSHAKE })
}
