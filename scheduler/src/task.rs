//! Runs the tracker machine of `swarm`: one task owns it, sessions talk to it through channels.
//!
//! The same task serves the scheduler's gRPC sessions and, inside a node without scheduler, the node itself.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use shoal_proto::message::{NodeMessage, PeerInfo, TrackerMessage};
use shoal_proto::{ClaimChecker, NodeId};
use shoal_swarm::Time;
use shoal_swarm::tracker::{TrackerAction, TrackerConfig, TrackerEvent, TrackerMachine, TrackerSnapshot};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

/// Messages that wait for one node. A node joins an image with some ten answers per layer; one that does not
/// read for that long is cut off and comes back with a new session.
const OUTGOING: usize = 4096;
/// Events that wait for the machine; beyond, the sessions wait, and gRPC's flow control makes the nodes wait.
const EVENTS: usize = 4096;

enum Event {
    Open { peer: PeerInfo, session: u64, outgoing: mpsc::Sender<TrackerMessage> },
    Message { from: NodeId, session: u64, message: NodeMessage },
    Close { node: NodeId, session: u64 },
    Snapshot(oneshot::Sender<TrackerSnapshot>),
}

/// A handle to the running tracker; cheap to clone. The tracker stops when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct TrackerHandle {
    events: mpsc::Sender<Event>,
    sessions: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Event")
    }
}

/// The tracker has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tracker has stopped")]
pub struct Stopped;

impl TrackerHandle {
    /// Starts a tracker.
    pub fn start(config: TrackerConfig) -> Self {
        let (events, inbox) = mpsc::channel(EVENTS);
        let epoch = fastrand::u64(..);
        let machine = TrackerMachine::new(config, epoch, fastrand::u64(..));
        debug!(epoch, "tracker starts");
        tokio::spawn(Task { machine, started: Instant::now(), sessions: HashMap::new() }.run(inbox));
        Self { events, sessions: Default::default() }
    }

    /// Opens a session for a node. A node has one at a time: the newer one replaces the older.
    pub async fn open(
        &self,
        peer: PeerInfo,
    ) -> Result<(SessionSender, mpsc::Receiver<TrackerMessage>), Stopped> {
        let (outgoing, incoming) = mpsc::channel(OUTGOING);
        let session = self.sessions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let node = peer.node;
        self.events.send(Event::Open { peer, session, outgoing }).await.map_err(|_| Stopped)?;
        let sender =
            SessionSender { events: self.events.clone(), node, session, claims: ClaimChecker::default() };
        Ok((sender, incoming))
    }

    /// What the tracker knows, for people and metrics.
    pub async fn snapshot(&self) -> Result<TrackerSnapshot, Stopped> {
        let (answer, answered) = oneshot::channel();
        self.events.send(Event::Snapshot(answer)).await.map_err(|_| Stopped)?;
        answered.await.map_err(|_| Stopped)
    }
}

/// What a node says goes in here; dropping it closes the session.
#[derive(Debug)]
pub struct SessionSender {
    events: mpsc::Sender<Event>,
    node: NodeId,
    session: u64,
    claims: ClaimChecker,
}

impl SessionSender {
    /// Passes on a message after its signed claims were checked. A message with a forged claim is dropped and
    /// logged: the rest of the session may be honest, and the machine never sees the claim.
    pub async fn send(&mut self, message: NodeMessage) -> Result<(), Stopped> {
        if let Err(error) = self.claims.node(self.node, &message) {
            warn!(node = %self.node, %error, "dropped a message whose claim does not hold");
            return Ok(());
        }
        let event = Event::Message { from: self.node, session: self.session, message };
        self.events.send(event).await.map_err(|_| Stopped)
    }
}

impl Drop for SessionSender {
    fn drop(&mut self) {
        let close = Event::Close { node: self.node, session: self.session };
        // The queue may be full, and drop cannot wait.
        if let Err(mpsc::error::TrySendError::Full(close)) = self.events.try_send(close)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let events = self.events.clone();
            runtime.spawn(async move { events.send(close).await });
        }
    }
}

struct Session {
    number: u64,
    outgoing: mpsc::Sender<TrackerMessage>,
}

struct Task {
    machine: TrackerMachine,
    started: Instant,
    sessions: HashMap<NodeId, Session>,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<Event>) {
        loop {
            let wait = self.machine.next_timeout().map_or(Duration::MAX, |at| self.until(at));
            tokio::select! {
                event = inbox.recv() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
                () = sleep(wait) => self.machine.handle(self.now(), TrackerEvent::Tick),
            }
            self.send_actions();
        }
    }

    fn now(&self) -> Time {
        Time::from(self.started.elapsed())
    }

    fn until(&self, at: Time) -> Duration {
        Duration::from(at).saturating_sub(self.started.elapsed())
    }

    fn take(&mut self, event: Event) {
        let now = self.now();
        match event {
            Event::Open { peer, session, outgoing } => {
                let node = peer.node;
                debug!(%node, zone = %peer.place.zone, "tracker has a node");
                if self.sessions.insert(node, Session { number: session, outgoing }).is_some() {
                    self.machine.handle(now, TrackerEvent::Disconnected(node));
                }
                self.machine.handle(now, TrackerEvent::Connected(peer));
            }
            Event::Message { from, session, message } => {
                if self.is_current(from, session) {
                    self.machine.handle(now, TrackerEvent::Message { from, message });
                }
            }
            Event::Close { node, session } => {
                if self.is_current(node, session) {
                    debug!(%node, "tracker has lost a node");
                    self.sessions.remove(&node);
                    self.machine.handle(now, TrackerEvent::Disconnected(node));
                }
            }
            Event::Snapshot(answer) => {
                // The asker may have gone; nobody needs the answer then.
                let _ = answer.send(self.machine.snapshot());
            }
        }
    }

    fn is_current(&self, node: NodeId, session: u64) -> bool {
        self.sessions.get(&node).is_some_and(|current| current.number == session)
    }

    fn send_actions(&mut self) {
        while let Some(TrackerAction::Send { to, message }) = self.machine.poll_action() {
            let Some(session) = self.sessions.get(&to) else { continue };
            if session.outgoing.try_send(message).is_err() {
                debug!(node = %to, "session cut off: the node does not read");
                self.sessions.remove(&to);
                self.machine.handle(self.now(), TrackerEvent::Disconnected(to));
            }
        }
    }
}

async fn sleep(wait: Duration) {
    if wait == Duration::MAX {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(wait).await;
}
