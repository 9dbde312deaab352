//! What can happen in a simulated cluster.

use shoal_proto::ChunkIndex;
use shoal_proto::message::{NodeMessage, PeerMessage, TrackerMessage};
use shoal_swarm::peer::{FetchOutcome, PeerEvent};

use super::image::BlobId;
use super::node::Number;

/// Names a slot of a slab and who is in it: an event for one who left finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) slot: usize,
    pub(super) serial: u64,
}

/// An event. Those that travel are dropped where the receiver is gone.
#[derive(Debug)]
pub(super) enum Event {
    Peer(Number, Box<PeerEvent>),
    Message {
        from: Number,
        to: Number,
        message: PeerMessage,
    },
    ToTracker {
        generation: u64,
        from: Number,
        message: Box<NodeMessage>,
    },
    OpenSession {
        generation: u64,
        node: Number,
    },
    Session {
        generation: u64,
        node: Number,
    },
    SessionLost {
        generation: u64,
        node: Number,
    },
    FromTracker {
        generation: u64,
        to: Number,
        message: Box<TrackerMessage>,
    },
    TrackerTick(u64),
    Tick(Number),
    /// A link is being opened by the first.
    Link(Number, Number),
    LinkLost {
        node: Number,
        other: Number,
    },
    /// A request for a chunk reaches who has it.
    Request(Ticket),
    /// Its answer reaches who asked: no, or the whole chunk, checked and written.
    Refused(Ticket, FetchOutcome),
    Landed(Ticket),
    /// A client's body may be held no longer.
    Hold {
        node: Number,
        blob: BlobId,
    },
    UploadEnded {
        node: Number,
        to: Number,
    },
    /// The origin begins to answer.
    OriginAnswers(Ticket),
    OriginChunk(Ticket, ChunkIndex),
    OriginEnded(Ticket),
    Step(Step),
    Sample,
}

/// What a scenario does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Begin(Number),
    /// A node dies without a word.
    Kill(Number),
    /// A new node comes and pulls.
    Arrive,
    LoseTracker,
    StartTracker,
    Throttle,
    Unthrottle,
}
