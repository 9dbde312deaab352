//! The life of one connection: who is it, does it become the link, and what passes on it until it ends.
//!
//! Two nodes may call each other at once. So that exactly one connection becomes the link, and both ends mean
//! the same one, the node with the greater identity decides. A control stream starts with the eight bytes of its
//! sender's instance; the lesser node opens its own at once, the greater one only on the connection that it
//! chose. The lesser node takes a connection for the link when the greater one's control stream arrives.

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream};
use shoal_proto::NodeId;
use shoal_proto::message::{PeerMessage, limit};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::frame::{ReadFrameError, read_frame};
use super::links::{Close, Instance, NotTaken, Queued, Taken};
use super::serve::serve_requests;
use super::shared::Shared;
use crate::LinkEvent;

/// A connection must be up, or called off, within this time.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(5);

/// A connection that became the link.
pub(super) struct Session {
    pub(super) peer: NodeId,
    connection: Connection,
    sender: SendStream,
    receiver: RecvStream,
    taken: Taken,
}

async fn greet(connection: &Connection, instance: Instance) -> Option<SendStream> {
    let mut sender = connection.open_uni().await.ok()?;
    sender.write_all(&instance).await.ok()?;
    Some(sender)
}

async fn greeted(connection: &Connection) -> Option<(RecvStream, Instance)> {
    let mut receiver = connection.accept_uni().await.ok()?;
    let mut instance = Instance::default();
    receiver.read_exact(&mut instance).await.ok()?;
    Some((receiver, instance))
}

impl Session {
    /// Agrees with the other end on whether this connection is the link; closes it where it is not.
    pub(super) async fn open(shared: &Shared, connection: Connection, peer: NodeId) -> Option<Self> {
        let opened = timeout(HANDSHAKE, Self::agree(shared, &connection, peer)).await.ok().flatten();
        if opened.is_none() {
            // Says nothing new where it was closed with a reason before.
            Close::Protocol.close(&connection);
            shared.links.remove(peer, &connection);
        }
        let (sender, receiver, taken) = opened?;
        Some(Self { peer, connection, sender, receiver, taken })
    }

    async fn agree(
        shared: &Shared,
        connection: &Connection,
        peer: NodeId,
    ) -> Option<(SendStream, RecvStream, Taken)> {
        let decides = shared.node > peer;
        let early = if decides { None } else { Some(greet(connection, shared.instance).await?) };
        let (receiver, instance) = greeted(connection).await?;
        let taken = match shared.links.take(peer, instance, connection, !decides) {
            Ok(taken) => taken,
            Err(why) => {
                match why {
                    NotTaken::Duplicate => Close::Duplicate.close(connection),
                    NotTaken::Full => Close::Full.close(connection),
                }
                return None;
            }
        };
        let sender = match early {
            Some(sender) => sender,
            None => greet(connection, shared.instance).await?,
        };
        Some((sender, receiver, taken))
    }

    /// Runs the link until it ends.
    pub(super) async fn run(self, shared: Arc<Shared>) {
        let Self { peer, connection, sender, receiver, taken } = self;
        if let Some(down) = taken.before {
            // An error says that the sender is gone, which is what is waited for.
            let _ = down.await;
        }
        shared.tell(LinkEvent::Up(peer)).await;
        let why = tokio::select! {
            why = write_messages(sender, taken.queue) => why,
            why = read_messages(&shared, peer, receiver) => why,
            why = serve_requests(&shared, peer, &connection) => why,
            _ = connection.closed() => Close::Done,
        };
        why.close(&connection);
        shared.links.remove(peer, &connection);
        shared.tell(LinkEvent::Down(peer)).await;
    }
}

async fn write_messages(mut stream: SendStream, mut queue: mpsc::UnboundedReceiver<Queued>) -> Close {
    while let Some((message, room)) = queue.recv().await {
        if stream.write_chunk(message).await.is_err() {
            return Close::Protocol;
        }
        drop(room);
    }
    Close::Done
}

async fn read_messages(shared: &Shared, peer: NodeId, mut stream: RecvStream) -> Close {
    loop {
        let message = read_frame(&mut stream, limit::MESSAGE).await;
        let message =
            message.and_then(|frame| Ok(frame.map(|bytes| PeerMessage::decode(&bytes)).transpose()?));
        match message {
            Ok(Some(message)) => shared.tell(LinkEvent::Message(peer, message)).await,
            // A control stream lasts as long as its link.
            Ok(None) | Err(ReadFrameError::Stream(_)) => return Close::Protocol,
            Err(ReadFrameError::Frame(error)) => {
                tracing::warn!(%peer, %error, "a neighbour broke the protocol, the link is closed");
                return Close::Protocol;
            }
        }
    }
}
