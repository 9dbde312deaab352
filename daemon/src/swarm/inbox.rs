//! What reaches the driver, and the handle through which the node's other parts send it.

use std::ops::Range;
use std::sync::Arc;

use shoal_proto::message::{ChunkRequest, Held, LeaseFailure, PeerMessage, Proof, TrackerMessage};
use shoal_proto::{ChunkIndex, Digest, LeaseToken, NodeId, SignedAttestation, SignedEntry, SwarmId};
use shoal_swarm::peer::{Admission, FetchOutcome, PeerSnapshot};
use tokio::sync::{mpsc, oneshot};

use crate::blobs::ActiveBlob;

/// Inputs that wait for the driver; beyond, who sends waits. Far above what slots and streams can have in flight.
const WAITING: usize = 4096;

/// A blob that this node begins to fetch, and what it has of it already.
#[derive(Debug)]
pub(crate) struct Joining {
    pub blob: Arc<ActiveBlob>,
    pub held: Held,
    pub proof: Option<Proof>,
}

/// A blob that was complete when the node started, to be served to others.
#[derive(Debug)]
pub(crate) struct Restored {
    pub swarm: SwarmId,
    pub held: Held,
    pub proof: Proof,
    /// Its registry gives it to anybody.
    pub open: bool,
}

/// One thing that happened. Signed claims in it were checked.
#[derive(Debug)]
pub(crate) enum Input {
    Join(Vec<Joining>),
    Restore(Vec<Restored>),
    Leave(Arc<ActiveBlob>),
    /// Somebody asks for a blob on its way, authorised anew: the origin may be asked again.
    Access(Arc<ActiveBlob>),
    /// Nothing came for longer than a reader waits. When the last reader says so the blob fails, and whoever asks
    /// next begins anew.
    GiveUp {
        blob: Arc<ActiveBlob>,
        reason: Arc<str>,
    },
    /// A reader waits for these chunks, first one first.
    Want {
        blob: Arc<ActiveBlob>,
        reader: u64,
        chunks: Range<u32>,
    },
    Unwant {
        blob: Arc<ActiveBlob>,
        reader: u64,
    },
    TrackerUp,
    TrackerDown,
    Tracker(TrackerMessage),
    LinkUp(NodeId),
    LinkDown(NodeId),
    ConnectFailed(NodeId),
    Peer {
        from: NodeId,
        message: PeerMessage,
    },
    Admit {
        from: NodeId,
        request: ChunkRequest,
        /// With a yes comes an upload slot.
        answer: oneshot::Sender<(Admission, Option<Slot>)>,
    },
    UploadEnded(NodeId),
    Fetched {
        request: u64,
        swarm: SwarmId,
        index: ChunkIndex,
        outcome: FetchOutcome,
    },
    OriginChunk(SignedEntry),
    OriginEnded {
        swarm: SwarmId,
        token: LeaseToken,
        result: Result<(), OriginFailure>,
    },
    Verified {
        signed: SignedAttestation,
        /// The registry gives the blob to anybody.
        open: bool,
    },
    DigestMismatch(SwarmId),
    /// The store failed; the blob cannot go on here.
    StoreFailed {
        swarm: SwarmId,
        reason: Arc<str>,
    },
    /// Chunks that were found corrupt.
    Lost {
        swarm: SwarmId,
        chunks: Vec<ChunkIndex>,
    },
    /// The same for a blob that was complete; `None`: it was evicted.
    LostComplete {
        digest: Digest,
        chunks: Option<Vec<ChunkIndex>>,
    },
    Snapshot(oneshot::Sender<PeerSnapshot>),
    /// Joins a swarm and leaves it, to hear who is in it; nothing if this node is in it.
    LookIn {
        swarm: SwarmId,
        done: oneshot::Sender<()>,
    },
}

/// Why a read from the origin ended early: what the tracker is told, and what a waiting client is told.
#[derive(Clone, Debug)]
pub(crate) struct OriginFailure {
    pub why: LeaseFailure,
    pub reason: Arc<str>,
}

/// An upload slot; given back when it is dropped, wherever the upload ends.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(super) swarm: SwarmHandle,
    pub(super) to: NodeId,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.swarm.send_later(Input::UploadEnded(self.to));
    }
}

/// Sends to the driver; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SwarmHandle(mpsc::Sender<Input>);

/// The driver's end.
pub(crate) type Inbox = mpsc::Receiver<Input>;

impl SwarmHandle {
    pub(crate) fn new() -> (Self, Inbox) {
        let (sender, inbox) = mpsc::channel(WAITING);
        (Self(sender), inbox)
    }

    /// Sends, waiting for room. After the driver stopped, what is sent is nobody's business any more.
    pub(crate) async fn send(&self, input: Input) {
        let _ = self.0.send(input).await;
    }

    /// Sends from where one cannot wait, such as `drop`.
    pub(crate) fn send_later(&self, input: Input) {
        if let Err(mpsc::error::TrySendError::Full(input)) = self.0.try_send(input)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let handle = self.clone();
            runtime.spawn(async move { handle.send(input).await });
        }
    }

    /// May this peer have this chunk now? `NotHeld` after the driver stopped.
    pub(crate) async fn admit(&self, from: NodeId, request: ChunkRequest) -> (Admission, Option<Slot>) {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Admit { from, request, answer }).await;
        answered.await.unwrap_or((Admission::NotHeld, None))
    }

    /// Has the tracker name members of a swarm that this node is not in.
    pub(super) async fn look_in(&self, swarm: SwarmId) {
        let (done, told) = oneshot::channel();
        self.send(Input::LookIn { swarm, done }).await;
        // It fails after the driver stopped.
        let _ = told.await;
    }

    /// What the machine knows, for people and metrics; `None` after the driver stopped.
    pub(crate) async fn snapshot(&self) -> Option<PeerSnapshot> {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Snapshot(answer)).await;
        answered.await.ok()
    }
}
