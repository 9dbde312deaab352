//! One simulated node: its machine, what it has, what is under way.

use std::collections::BTreeMap;

use shoal_proto::message::{PeerInfo, Place};
use shoal_proto::{ChunkIndex, ChunkSet, ChunkValue, NodeId};
use shoal_swarm::peer::{PeerConfig, PeerMachine};

use super::image::{BlobId, Image};
use super::queue::Nanos;

/// A node's number.
pub(super) type Number = u32;

/// How a node behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    Honest,
    /// Sends other bytes than it announced.
    SendsWrongBytes,
    /// Signs for wrong bytes under its leases.
    SignsWrongBytes,
}

/// What a node has of a blob.
#[derive(Clone, Debug)]
pub(super) struct Copy {
    pub(super) held: ChunkSet,
    /// Chunks that are not what they should be.
    wrong: BTreeMap<u32, ChunkValue>,
    pub(super) done: bool,
    /// When the client asked for it.
    pub(super) asked: Option<Nanos>,
}

impl Copy {
    /// Takes in a chunk; false when it was there.
    pub(super) fn insert(&mut self, chunk: u32, value: ChunkValue, truth: ChunkValue) -> bool {
        let new = self.held.insert(ChunkIndex(chunk));
        if new && value != truth {
            self.wrong.insert(chunk, value);
        }
        new
    }

    pub(super) fn value(&self, chunk: u32, truth: ChunkValue) -> Option<ChunkValue> {
        let held = self.held.contains(ChunkIndex(chunk));
        held.then(|| self.wrong.get(&chunk).copied().unwrap_or(truth))
    }

    pub(super) fn is_right(&self) -> bool {
        self.held.is_full() && self.wrong.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.held = ChunkSet::empty(self.held.len());
        self.wrong = BTreeMap::new();
    }
}

/// A node.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) machine: PeerMachine,
    pub(super) info: PeerInfo,
    pub(super) manner: Manner,
    pub(super) alive: bool,
    /// When it was told to pull, had the first chunk of a layer, gave its client a byte, and had all.
    pub(super) began: Option<Nanos>,
    pub(super) first_chunk: Option<Nanos>,
    pub(super) first_byte: Option<Nanos>,
    pub(super) finished: Option<Nanos>,
    pub(super) copies: Vec<Copy>,
    /// The next layer that its client will ask for.
    pub(super) next_layer: BlobId,
    pub(super) linked: Vec<Number>,
    /// Chunks that it asked for, by the machine's number; and those that it sends.
    pub(super) asked: Vec<(u64, usize)>,
    pub(super) sending: Vec<usize>,
    pub(super) reads: Vec<usize>,
    pub(super) tick: Option<Nanos>,
}

impl Node {
    pub(super) fn new(
        number: Number,
        place: Place,
        config: PeerConfig,
        image: &Image,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let info = PeerInfo { node: node_id(number, rng), addresses: Vec::new(), place };
        let copy = |blob: &super::image::Blob| {
            let chunks = blob.layout.count();
            let held = if blob.shared { ChunkSet::full(chunks) } else { ChunkSet::empty(chunks) };
            Copy { held, wrong: BTreeMap::new(), done: blob.shared, asked: None }
        };
        Self {
            machine: PeerMachine::new(info.clone(), config, rng.u64(..)),
            info,
            manner: Manner::Honest,
            alive: true,
            began: None,
            first_chunk: None,
            first_byte: None,
            finished: None,
            copies: image.blobs.iter().map(copy).collect(),
            next_layer: 0,
            linked: Vec::new(),
            asked: Vec::new(),
            sending: Vec::new(),
            reads: Vec::new(),
            tick: None,
        }
    }

    /// Whether the run waits for it.
    pub(super) fn is_awaited(&self) -> bool {
        self.alive
            && self.began.is_some()
            && self.finished.is_none()
            && self.manner != Manner::SignsWrongBytes
    }
}

/// A name in random order that holds the node's number.
fn node_id(number: Number, rng: &mut fastrand::Rng) -> NodeId {
    let mut bytes = [0; 32];
    rng.fill(&mut bytes);
    bytes[28..].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(bytes)
}

/// The number in a name.
pub(super) fn number_of(node: &NodeId) -> Number {
    let bytes = node.as_bytes();
    Number::from_be_bytes([bytes[28], bytes[29], bytes[30], bytes[31]])
}
