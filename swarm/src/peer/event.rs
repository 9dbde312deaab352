//! What goes into the peer machine, and what comes out.

use std::ops::Range;

use shoal_proto::message::{
    Held, Lease, LeaseFailure, NodeMessage, PeerInfo, PeerMessage, Proof, TrackerMessage,
};
use shoal_proto::{ChunkIndex, ChunkValue, LeaseToken, NodeId, SignedAttestation, SignedEntry, SwarmId};

/// Something happened. Signed claims inside were checked by the driver.
#[derive(Clone, Debug)]
pub enum PeerEvent {
    /// This node takes part in a swarm. `proof` backs what is `held`; chunks without it count as missing.
    Join {
        swarm: SwarmId,
        held: Held,
        proof: Option<Proof>,
        wants: bool,
        may_lease: bool,
    },
    Leave {
        swarm: SwarmId,
    },
    /// The origin gives this blob to anybody: once whole, it may be given to nodes that read it from another origin.
    Shareable {
        swarm: SwarmId,
    },
    /// Whether this node may read the blob from its origin has changed.
    Access {
        swarm: SwarmId,
        may_lease: bool,
    },
    /// A reader waits for these chunks, the first one most urgently. Replaces what it waited for before. Makes the blob
    /// wanted.
    Want {
        swarm: SwarmId,
        reader: u64,
        chunks: Range<u32>,
    },
    Unwant {
        swarm: SwarmId,
        reader: u64,
    },
    /// A session with a tracker is open; Hello was sent.
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
    /// How a [`PeerAction::Fetch`] ended. Not needed after a [`PeerAction::Cancel`], and ignored then.
    Fetched {
        request: u64,
        outcome: FetchOutcome,
    },
    /// A chunk of an origin lease was read, hashed, signed and stored.
    OriginChunk {
        entry: SignedEntry,
    },
    /// The read under an origin lease is over.
    OriginEnded {
        swarm: SwarmId,
        token: LeaseToken,
        result: Result<(), LeaseFailure>,
    },
    /// The digest matched: this node's attestation. Answers [`PeerAction::Whole`].
    Verified(SignedAttestation),
    /// The digest did not match. Answers [`PeerAction::Whole`].
    DigestMismatch {
        swarm: SwarmId,
    },
    /// Chunks that were held are not any more.
    Lost {
        swarm: SwarmId,
        chunks: Vec<ChunkIndex>,
    },
    /// What [`Admission::Serve`] allowed is over, however it ended: the slot is free.
    UploadEnded {
        to: NodeId,
    },
    /// [`super::PeerMachine::next_timeout`] has come.
    Tick,
}

/// How a fetch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchOutcome {
    /// The bytes matched the wanted value and are stored.
    Stored,
    /// The bytes did not match.
    Mismatch,
    Busy,
    NotHeld,
    /// The link or the stream broke.
    Failed,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "made one at a time and carried out at once")]
pub enum PeerAction {
    ToTracker(NodeMessage),
    /// Answered by LinkUp or ConnectFailed.
    Connect(PeerInfo),
    Disconnect(NodeId),
    ToPeer {
        to: NodeId,
        message: PeerMessage,
    },
    /// Fetch a chunk, check it against `want`, store it; answered by Fetched.
    Fetch {
        request: u64,
        from: NodeId,
        swarm: SwarmId,
        index: ChunkIndex,
        want: ChunkValue,
    },
    Cancel {
        request: u64,
    },
    /// Read these chunks from the origin, in order; answered by OriginChunk for each and OriginEnded.
    FetchOrigin(Lease),
    /// Stop such a read; no OriginEnded is needed.
    CancelOrigin {
        swarm: SwarmId,
        token: LeaseToken,
    },
    /// All chunks are held: check the digest; answered by Verified or DigestMismatch.
    Whole {
        swarm: SwarmId,
    },
    /// The swarm goes on in a new round; nothing that was held in the old one is to be trusted.
    NewRound {
        old: SwarmId,
        new: SwarmId,
    },
    /// The blob cannot be had; this node has left the swarm.
    Failed {
        swarm: SwarmId,
        why: FailReason,
    },
    /// This node is not dealt with any more.
    Shunned(NodeId),
}

/// Why a blob cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FailReason {
    #[error("what the origin delivers does not have this digest, as several readings agree")]
    WrongBytes,
    #[error("the chunks did not have this digest, round after round")]
    TooManyRounds,
    #[error("the chunks do not have this digest, and there is no tracker to begin anew with")]
    NoTracker,
}

/// Whether a peer gets a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Send it, if the bytes still match this value. Ends with [`PeerEvent::UploadEnded`].
    Serve {
        want: ChunkValue,
    },
    Busy,
    NotHeld,
}
