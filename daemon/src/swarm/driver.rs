//! The task that owns the peer machine: inputs in, actions carried out.
//!
//! It never waits for anything but its inbox and the machine's clock: whatever takes time runs in a task
//! of its own and reports back as an [`Input`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_origin::Origins;
use shoal_proto::message::{Held, Membership, NodeMessage, PeerMessage};
use shoal_proto::{ChunkSet, Digest, Keypair, LeaseToken, NodeId, SwarmId};
use shoal_store::Store;
use shoal_swarm::Time;
use shoal_swarm::peer::{Admission, PeerEvent, PeerMachine};
use shoal_transport::{Bulk, RateLimit};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tracing::{trace, warn};

use super::inbox::Slot;
use super::{Inbox, Input, SwarmHandle, TrackerLink, Unreachable};
use crate::blobs::{ActiveBlob, Failure, Phase};
use crate::lazy::Indexer;
use crate::metrics::Metrics;

/// What the driver works with.
#[derive(Clone)]
pub(crate) struct DriverParts {
    pub me: NodeId,
    pub key: Keypair,
    pub store: Store,
    pub bulk: Arc<dyn Bulk>,
    pub origins: Origins,
    pub origin_limit: Arc<RateLimit>,
    pub handle: SwarmHandle,
    pub metrics: Metrics,
    /// KiB of chunks that may be in memory at once on their way to the store.
    pub memory: Arc<Semaphore>,
    pub unreachable: Unreachable,
    /// What is complete may be a layer.
    pub indexer: Indexer,
}

impl std::fmt::Debug for DriverParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DriverParts").field("me", &self.me).finish_non_exhaustive()
    }
}

/// Runs the machine.
pub(crate) struct Driver {
    pub(super) parts: DriverParts,
    pub(super) machine: PeerMachine,
    pub(super) tracker: TrackerLink,
    started: Instant,
    /// Blobs on their way, by the swarm of the present round.
    pub(super) blobs: HashMap<SwarmId, Arc<ActiveBlob>>,
    /// The swarms in which each complete blob is served.
    pub(super) complete: HashMap<Digest, BTreeSet<SwarmId>>,
    pub(super) fetches: HashMap<u64, AbortHandle>,
    pub(super) origin_reads: HashMap<LeaseToken, AbortHandle>,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("blobs", &self.blobs.len()).finish_non_exhaustive()
    }
}

impl Driver {
    pub(crate) fn new(parts: DriverParts, machine: PeerMachine, tracker: TrackerLink) -> Self {
        Self {
            parts,
            machine,
            tracker,
            started: Instant::now(),
            blobs: HashMap::new(),
            complete: HashMap::new(),
            fetches: HashMap::new(),
            origin_reads: HashMap::new(),
        }
    }

    /// Runs until every handle is gone.
    pub(crate) async fn run(mut self, mut inbox: Inbox) {
        loop {
            let deadline = self.machine.next_timeout().map(|at| self.started + Duration::from(at));
            tokio::select! {
                input = inbox.recv() => match input {
                    Some(input) => self.take(input),
                    None => return,
                },
                () = sleep_until(deadline) => self.feed(PeerEvent::Tick),
            }
            // What arrived together is decided together: fewer and larger HAVE batches.
            while let Ok(input) = inbox.try_recv() {
                self.take(input);
            }
            while let Some(action) = self.machine.poll_action() {
                self.act(action);
            }
        }
    }

    fn now(&self) -> Time {
        Time::from(self.started.elapsed())
    }

    pub(super) fn feed(&mut self, event: PeerEvent) {
        trace!(?event, "swarm event");
        let now = self.now();
        self.machine.handle(now, event);
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Join(joining) => joining.into_iter().for_each(|joining| self.join(joining)),
            Input::Restore(restored) => restored.into_iter().for_each(|blob| self.restore(blob)),
            Input::Leave(blob) => self.leave(&blob),
            Input::Access(blob) => self.access(&blob.swarm(), true),
            Input::GiveUp { blob, reason } => {
                // It counts as a reader itself until this was taken.
                if blob.phase() == Phase::Fetching && blob.readers() <= 1 {
                    self.fail(&blob.swarm(), Failure::Unavailable(reason));
                }
            }
            Input::Want { blob, reader, chunks } => {
                self.feed(PeerEvent::Want { swarm: blob.swarm(), reader, chunks });
            }
            Input::Unwant { blob, reader } => self.feed(PeerEvent::Unwant { swarm: blob.swarm(), reader }),
            Input::TrackerUp => self.feed(PeerEvent::TrackerUp),
            Input::TrackerDown => self.feed(PeerEvent::TrackerDown),
            Input::Tracker(message) => self.feed(PeerEvent::Tracker(message)),
            Input::LinkUp(node) => {
                self.parts.unreachable.reached(node);
                self.feed(PeerEvent::LinkUp(node));
            }
            Input::LinkDown(node) => self.feed(PeerEvent::LinkDown(node)),
            Input::ConnectFailed(node) => self.feed(PeerEvent::ConnectFailed(node)),
            Input::Peer { from, message } => {
                self.decline(from, &message);
                self.feed(PeerEvent::Peer { from, message });
            }
            Input::Admit { from, request, answer } => {
                let now = self.now();
                let admission = self.machine.admit(now, from, &request);
                let serves = matches!(admission, Admission::Serve { .. });
                let slot = serves.then(|| Slot { swarm: self.parts.handle.clone(), to: from });
                // If the peer went away meanwhile, the slot is given back with the answer.
                let _ = answer.send((admission, slot));
            }
            Input::UploadEnded(to) => self.feed(PeerEvent::UploadEnded { to }),
            Input::Fetched { request, swarm, index, outcome } => {
                self.fetched(request, &swarm, index, outcome);
            }
            Input::OriginChunk(entry) => self.origin_chunk(entry),
            Input::OriginEnded { swarm, token, result } => self.origin_ended(swarm, token, result),
            Input::Verified { signed, open } => self.verified(signed, open),
            Input::DigestMismatch(swarm) => {
                warn!(digest = %swarm.digest, "all chunks matched their entries, the digest did not match");
                self.feed(PeerEvent::DigestMismatch { swarm });
            }
            Input::StoreFailed { swarm, reason } => self.fail(&swarm, Failure::Store(reason)),
            Input::Lost { swarm, chunks } => {
                if let Some(blob) = self.blobs.get(&swarm) {
                    chunks.iter().for_each(|index| blob.remove(*index));
                }
                self.feed(PeerEvent::Lost { swarm, chunks });
            }
            Input::LostComplete { digest, chunks } => self.lost_complete(digest, chunks),
            Input::LookIn { swarm, done } => {
                self.look_in(swarm);
                // Whoever asked may have gone.
                let _ = done.send(());
            }
            Input::Snapshot(answer) => {
                // Whoever asked may have gone; nobody needs the answer then.
                let _ = answer.send(self.machine.snapshot());
            }
        }
    }
}

impl Driver {
    /// Whether this node has a part in a swarm of these bytes.
    fn knows(&self, swarm: &SwarmId) -> bool {
        self.complete.contains_key(&swarm.digest)
            || self.blobs.keys().any(|known| known.digest == swarm.digest)
    }

    fn look_in(&self, swarm: SwarmId) {
        let Ok(layout) = swarm.layout() else { return };
        if self.knows(&swarm) {
            return;
        }
        let held = Held::Some(ChunkSet::empty(layout.count()));
        let (wants, may_lease, shareable) = (true, false, false);
        let member = Membership { swarm: swarm.clone(), held, wants, may_lease, shareable };
        self.tracker.send(NodeMessage::Join(vec![member]));
        self.tracker.send(NodeMessage::Leave(vec![swarm]));
    }

    /// Who takes this node for a neighbour because it looked in learns that it is none.
    fn decline(&self, from: NodeId, message: &PeerMessage) {
        if let PeerMessage::State { swarm, .. } = message
            && !self.knows(swarm)
            && let Err(error) = self.parts.bulk.send(from, &PeerMessage::Leave(swarm.clone()))
        {
            trace!(peer = %from, %error, "gone already");
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
