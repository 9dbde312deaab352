//! The links that are up, and the queue of messages of each.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use quinn::{Connection, VarInt};
use shoal_proto::NodeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::config::LINKS;
use crate::{ConnectError, LinkStats, SendError};

/// Why this end closes a connection, as the other end sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Close {
    /// The node wants no link, or shuts down.
    Done = 0,
    /// There is another connection between the two that is the link.
    Duplicate = 1,
    /// The other end broke the protocol.
    Protocol = 2,
    /// The other end does not read what it is sent.
    Slow = 3,
    /// There are too many links.
    Full = 4,
    /// The certificate names no node, or not the one that was called.
    WrongNode = 5,
}

impl Close {
    pub(super) fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }

    pub(super) fn close(self, connection: &Connection) {
        connection.close(self.code(), b"");
    }
}

/// Drawn when an endpoint is bound: tells a node that started anew from one that called twice.
pub(super) type Instance = [u8; 8];

/// Bytes of messages that wait for a neighbour that reads slowly: four of the largest.
const QUEUE: usize = 4 * shoal_proto::message::limit::MESSAGE;
/// What a queued message costs besides its bytes.
const OVERHEAD: usize = 128;

/// A message in the queue, with its share of the queue's bound.
pub(super) type Queued = (Bytes, OwnedSemaphorePermit);

struct Link {
    connection: Connection,
    instance: Instance,
    queue: mpsc::UnboundedSender<Queued>,
    room: Arc<Semaphore>,
    /// Ends when the link's `Down` has been told.
    down: oneshot::Receiver<()>,
}

/// A place in the table, for the task that runs the link.
pub(super) struct Taken {
    pub(super) queue: mpsc::UnboundedReceiver<Queued>,
    /// Dropped when `Down` has been told.
    pub(super) _down: oneshot::Sender<()>,
    /// The link that this one replaces: its `Down` comes before this one's `Up`.
    pub(super) before: Option<oneshot::Receiver<()>>,
}

/// Why a connection did not become the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    Duplicate,
    Full,
}

/// All links of an endpoint.
#[derive(Default)]
pub(super) struct Links {
    links: Mutex<HashMap<NodeId, Link>>,
    changed: watch::Sender<()>,
}

impl Links {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Link>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a connection the link to a node. `replace`: also where there is a link to this instance already.
    pub(super) fn take(
        &self,
        node: NodeId,
        instance: Instance,
        connection: &Connection,
        replace: bool,
    ) -> Result<Taken, NotTaken> {
        let (queue, receiver) = mpsc::unbounded_channel();
        let (down_sender, down) = oneshot::channel();
        let mut links = self.lock();
        let before = links.get(&node);
        let lives = |link: &Link| link.instance == instance && link.connection.close_reason().is_none();
        if before.is_some_and(|link| !replace && lives(link)) {
            return Err(NotTaken::Duplicate);
        }
        if before.is_none() && links.len() >= LINKS {
            return Err(NotTaken::Full);
        }
        let room = Arc::new(Semaphore::new(QUEUE));
        let link = Link { connection: connection.clone(), instance, queue, room, down };
        let before = links.insert(node, link).map(|old| {
            Close::Duplicate.close(&old.connection);
            old.down
        });
        drop(links);
        self.changed.send_replace(());
        Ok(Taken { queue: receiver, _down: down_sender, before })
    }

    /// Forgets a link whose connection has ended, unless another connection has taken its place.
    pub(super) fn remove(&self, node: NodeId, connection: &Connection) {
        let mut links = self.lock();
        if links.get(&node).is_some_and(|link| link.connection.stable_id() == connection.stable_id()) {
            links.remove(&node);
        }
        drop(links);
        self.changed.send_replace(());
    }

    pub(super) fn connection(&self, node: NodeId) -> Option<Connection> {
        self.lock()
            .get(&node)
            .map(|link| link.connection.clone())
            .filter(|connection| connection.close_reason().is_none())
    }

    /// Whether another link may be dialled.
    pub(super) fn has_room(&self) -> Result<(), ConnectError> {
        if self.lock().len() < LINKS { Ok(()) } else { Err(ConnectError::TooMany { limit: LINKS }) }
    }

    /// Returns when there is a link to the node.
    pub(super) async fn wait_for(&self, node: NodeId) {
        let mut changed = self.changed.subscribe();
        // The sender lives as long as `self`, so waiting does not fail.
        while self.connection(node).is_none() && changed.changed().await.is_ok() {}
    }

    /// Returns when there are no links.
    pub(super) async fn wait_for_none(&self) {
        let mut changed = self.changed.subscribe();
        while !self.lock().is_empty() && changed.changed().await.is_ok() {}
    }

    pub(super) fn queue(&self, node: NodeId, message: Bytes) -> Result<(), SendError> {
        let links = self.lock();
        let link = links.get(&node).ok_or(SendError::NotConnected(node))?;
        // Messages are at most 4 MiB.
        let cost = u32::try_from(message.len() + OVERHEAD).unwrap_or(u32::MAX);
        let Ok(permit) = link.room.clone().try_acquire_many_owned(cost) else {
            Close::Slow.close(&link.connection);
            return Err(SendError::Overflow(node));
        };
        link.queue.send((message, permit)).map_err(|_| SendError::NotConnected(node))
    }

    pub(super) fn close(&self, node: NodeId, why: Close) {
        if let Some(link) = self.lock().get(&node) {
            why.close(&link.connection);
        }
    }

    pub(super) fn stats(&self) -> Vec<LinkStats> {
        self.lock().iter().map(|(node, link)| stats(*node, &link.connection)).collect()
    }
}

fn stats(node: NodeId, connection: &Connection) -> LinkStats {
    let stats = connection.stats();
    LinkStats {
        node,
        address: connection.remote_address(),
        sent: stats.udp_tx.bytes,
        received: stats.udp_rx.bytes,
        rtt: stats.path.rtt,
        black_holes_detected: stats.path.black_holes_detected,
    }
}
