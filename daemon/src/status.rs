//! What a node says of itself to people and programs: the admin endpoint's `/status`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A node at one moment.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its `PeerId`.
    pub node: String,
    pub version: String,
    /// Whether it has a session with a scheduler.
    pub scheduler: bool,
    /// The schedulers of its configuration; none: it is a cluster of its own.
    #[serde(default)]
    pub scheduler_urls: Vec<String>,
    /// For how long it has had no session, or has had this one, in seconds.
    #[serde(default)]
    pub scheduler_since_s: u64,
    pub store: StoreStatus,
    pub blobs: Vec<BlobStatus>,
    pub peers: Vec<PeerStatus>,
    /// The addresses of each node that this one could not call lately and has no link to.
    #[serde(default)]
    pub unreachable: Vec<Vec<SocketAddr>>,
    pub transfer: TransferStatus,
    /// What `shoal fs` on this machine does, while it is connected.
    #[serde(default)]
    pub filesystem: Option<FilesystemStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StoreStatus {
    pub used_bytes: u64,
    pub capacity_bytes: Option<u64>,
    pub free_bytes: u64,
}

/// A blob on this node's disk, whole or in part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BlobStatus {
    pub digest: String,
    pub size: u64,
    pub held_chunks: u32,
    pub total_chunks: u32,
    /// Whether its digest matched.
    pub complete: bool,
    pub pinned: bool,
}

/// A neighbour that this node has a link to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerStatus {
    pub node: String,
    pub address: String,
    pub sent_bytes: u64,
    pub received_bytes: u64,
    pub rtt_us: u64,
}

/// Bytes since the node started.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct TransferStatus {
    /// Bodies received from origins, manifests included.
    pub origin_received_bytes: u64,
    /// Chunks received from peers that matched.
    pub peer_received_bytes: u64,
    pub chunks_rejected: u64,
    /// Blobs handed to clients, by where they came from.
    pub client_local_bytes: u64,
    pub client_swarm_bytes: u64,
    pub client_origin_bytes: u64,
}

/// The process with the filesystems. Its counts begin when it does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FilesystemStatus {
    pub images: Vec<ShownImageStatus>,
    /// Images that are shown too.
    pub more_images: u64,
    /// What was read of layers, on its disk.
    pub disk_used_bytes: u64,
    pub disk_limit_bytes: Option<u64>,
    /// Bytes of files that readers got, and bytes that were fetched.
    pub read_bytes: u64,
    pub fetched_bytes: u64,
    pub spans: SpanStatus,
    /// Reads that waited, by how long.
    pub waits: Vec<WaitStatus>,
    /// All of them together.
    pub waited_s: f64,
}

/// Spans by where they came from, and those that were wrong or could not be had.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct SpanStatus {
    pub peer: u64,
    pub registry: u64,
    /// The daemon's store.
    pub store: u64,
    /// The filesystem's own disk, from before it was started.
    pub disk: u64,
    pub wrong: u64,
    pub failed: u64,
}

/// Reads that waited no longer than this, and longer than the bound before.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct WaitStatus {
    /// `None`: longer than all bounds.
    pub up_to_ms: Option<u64>,
    pub reads: u64,
}

/// An image that containers can run on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ShownImageStatus {
    /// With the digest of its manifest.
    pub name: String,
    /// Layers that are shown, and those that are there as a whole.
    pub layers: u64,
    pub whole_layers: u64,
    /// Bytes of their tars, and how many of them are there.
    pub tar_bytes: u64,
    pub local_bytes: u64,
    /// Bytes that the node's store holds of the same layers, compressed.
    pub store_bytes: u64,
}
