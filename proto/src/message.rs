//! What nodes, trackers and peers say to each other, already parsed and bounded.
//!
//! The wire form is protobuf (`proto/shoal.proto`); `wire.rs` converts, and refuses what breaks a bound. A signed
//! claim inside a message is *not* checked by parsing: the receiver checks it before it uses it.

use std::ops::Range;
use std::time::Duration;

use crate::{
    ChunkIndex, ChunkSet, ChunkValue, Digest, LeaseToken, NodeId, RegistryName, SignedAttestation,
    SignedEntry, SwarmId,
};

/// Where a node stands; crossing zones costs. Empty names mean "the only one".
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    pub zone: Box<str>,
    pub rack: Box<str>,
}

/// A node as others reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    pub node: NodeId,
    /// `ip:port` of its chunk endpoint (UDP), best first, at most [`limit::ADDRESSES`].
    pub addresses: Vec<std::net::SocketAddr>,
    pub place: Place,
}

/// What a node has of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// These chunks, each matching its entry; the digest is not known to match yet.
    Some(ChunkSet),
    /// The whole blob, its SHA-256 matched.
    Complete,
}

/// One blob that a node takes part in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub swarm: SwarmId,
    pub held: Held,
    /// Whether the node wants the rest. A node that only serves does not.
    pub wants: bool,
    /// Whether the node may read the blob from its origin: it was authorised, or access is anonymous.
    pub may_lease: bool,
    /// Whether the node gives the bytes, once whole, to whoever reads the same blob from another origin: its origin gives
    /// them to anybody. To know a digest is no right to a private blob, and a registry may list what it does not have.
    pub shareable: bool,
}

/// How long a tracker gives, and for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseKind {
    /// Read these chunks from the origin.
    Origin,
    /// Read these chunks from this node of another zone.
    Zone(PeerInfo),
}

/// The right to bring some adjacent chunks into the cluster, or into a zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub swarm: SwarmId,
    pub token: LeaseToken,
    pub chunks: Range<u32>,
    pub kind: LeaseKind,
    /// Ends this long after it arrived unless progress is reported.
    pub lasts: Duration,
}

/// Why a lease holder gives a lease back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseFailure {
    /// The origin refused this node (401, 403) or does not have the blob (404): do not ask this node again.
    Refused,
    /// The origin cannot be reached, or answers 5xx.
    Unreachable,
    /// The origin said 429; nobody should ask before this has passed.
    Throttled(Duration),
    /// This node does not want it any more, or its disk is full.
    Abandoned,
}

/// A tag's answer as a node got it from the origin by anonymous access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    pub registry: RegistryName,
    pub repository: Box<str>,
    pub tag: Box<str>,
    pub digest: Digest,
    /// Size of the manifest in bytes.
    pub size: u64,
    pub media_type: Box<str>,
    /// How long ago the origin said so.
    pub age: Duration,
}

/// From a node to its tracker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeMessage {
    /// The first message of a stream. The node's identity comes from its certificate.
    Hello(PeerInfo),
    /// Joins swarms, or says anew what is held of them.
    Join(Vec<Membership>),
    Leave(Vec<SwarmId>),
    /// All that this node takes part in was reported since the Welcome.
    Reported,
    /// Chunks of a lease are here and can be had from this node. Renews the lease; ends it with the last chunk.
    Progress {
        swarm: SwarmId,
        token: LeaseToken,
        entries: Vec<SignedEntry>,
    },
    /// Gives back what is left of a lease.
    Return {
        swarm: SwarmId,
        token: LeaseToken,
        why: LeaseFailure,
    },
    /// The blob is whole here and its digest matched.
    Complete(SignedAttestation),
    /// Every chunk matched its entry, and the digest did not match.
    Mismatch(SwarmId),
    /// None of this node's neighbours has had these chunks for a while.
    Starved {
        swarm: SwarmId,
        chunks: Vec<ChunkIndex>,
    },
    Tag(TagRecord),
    /// What did a tag last resolve to? Answered by [`TrackerMessage::TagFound`].
    TagLookup {
        request: u64,
        registry: RegistryName,
        repository: Box<str>,
        tag: Box<str>,
    },
    /// The origin serves this repository to anybody, or does so no more.
    Anonymous {
        registry: RegistryName,
        repository: Box<str>,
        open: bool,
    },
    /// Is it known that the origin serves this repository to anybody? Answered by [`TrackerMessage::AnonymousFound`].
    AnonymousLookup {
        request: u64,
        registry: RegistryName,
        repository: Box<str>,
    },
}

/// From a tracker to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackerMessage {
    /// The first message of a stream: report all you hold, spread evenly over this time.
    Welcome {
        epoch: u64,
        report_within: Duration,
    },
    Neighbours {
        swarm: SwarmId,
        peers: Vec<PeerInfo>,
    },
    Lease(Lease),
    /// This lease has ended; stop.
    Revoke {
        swarm: SwarmId,
        token: LeaseToken,
    },
    Entries {
        swarm: SwarmId,
        entries: Vec<SignedEntry>,
    },
    Attested(SignedAttestation),
    /// Go on in this round of a blob, if in an earlier one; only what these nodes sign for counts in it. Said again
    /// when another reads.
    Round {
        swarm: SwarmId,
        readers: Vec<NodeId>,
    },
    TagFound {
        request: u64,
        record: Option<TagRecord>,
    },
    AnonymousFound {
        request: u64,
        known: bool,
    },
}

/// Between neighbours, on their control streams.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "handled one at a time, and few are kept")]
pub enum PeerMessage {
    /// What this node has of a blob, sent when two nodes become neighbours for it. `proof` backs every chunk in `held`.
    State { swarm: SwarmId, held: Held, proof: Proof },
    /// Newly held chunks.
    Have { swarm: SwarmId, entries: Vec<SignedEntry> },
    /// Newly held chunks whose values the receiver knows from an attested map.
    HaveIndexes { swarm: SwarmId, chunks: Vec<ChunkIndex> },
    /// The blob is whole here: the sender need not be told of its chunks any more. Carries no proof, for nobody asks for
    /// a chunk because of it: what the receiver lacks was announced before.
    Complete(SwarmId),
    /// These chunks are not here any more.
    Forget { swarm: SwarmId, chunks: Vec<ChunkIndex> },
    /// The sender takes no more part in this swarm.
    Leave(SwarmId),
    /// The sender, which told the receiver that it is busy, has a free slot for a chunk now. Somebody else may be faster.
    Free,
}

/// What backs the chunks of a [`PeerMessage::State`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// An entry for each chunk.
    Entries(Vec<SignedEntry>),
    /// The values of all chunks, attested.
    Map { values: Vec<ChunkValue>, attestation: Box<SignedAttestation> },
}

/// Asks a neighbour for one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRequest {
    pub swarm: SwarmId,
    pub index: ChunkIndex,
}

/// Asks a member for exact bytes of a layer, or of what belongs to it. Nothing vouches for such bytes but the index of
/// the layer: they are for the reader of one span, never stored as a chunk, never passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRequest {
    /// The layer's.
    pub swarm: SwarmId,
    pub part: Part,
    /// At least one byte, at most [`limit::RANGE`].
    pub range: std::ops::Range<u64>,
}

/// What belongs to a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// The layer itself, as the registry has it.
    Layer,
    /// The file of its index that has this SHA-256.
    Index(Digest),
    /// What [`SignedIndexClaim`](crate::SignedIndexClaim) says of the index that the member has.
    Claim,
}

/// What is asked for on a stream of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRequest {
    Chunk(ChunkRequest),
    Range(RangeRequest),
}

/// The head of the answer to a [`PeerRequest`]; after `Sending` follow exactly that many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkReply {
    Sending {
        len: u32,
    },
    /// All upload slots are taken.
    Busy,
    /// The chunk is not here, or not with an entry.
    NotHeld,
}

/// Bounds on what a message may hold. What breaks one is refused whole.
pub mod limit {
    /// Bytes of one message: a map of 65,536 values is 2 MiB, as many signed entries as one `State` may carry less.
    pub const MESSAGE: usize = 4 << 20;
    /// Signed entries in one message: 16,384 of about 200 bytes stay within [`MESSAGE`].
    pub const ENTRIES: usize = 16_384;
    /// Swarms in one message: an image rarely has more than 127 layers; a returning node reports in several messages.
    pub const SWARMS: usize = 256;
    pub const ADDRESSES: usize = 8;
    /// Bytes of one range: the most that a span of a layer may need.
    pub const RANGE: u64 = 32 << 20;
    pub const PEERS: usize = 64;
    /// Nodes that read from the origin in a later round: one after the other, when one leaves or fails.
    pub const READERS: usize = 16;
    /// Characters of a zone, rack, tag, repository or media type.
    pub const NAME: usize = 256;
}
