//! Names and wire of Shoal: the types that every other crate speaks, and the messages between nodes.
//!
//! This crate is *pure*: no runtime, no sockets, no files, no clock, no randomness of its own. What
//! arrives from a peer, a scheduler or a registry is parsed here once, bounded, and trusted after.

mod chunk;
mod chunk_map;
mod chunk_set;
mod claims;
mod digest;
mod entry;
mod image_name;
mod index_claim;
pub mod message;
mod node;
mod platform;
mod reference;
mod swarm_id;
pub mod wire;

pub use chunk::{BLOCK_SIZE, ChunkIndex, ChunkLayout, LayoutError, MAX_BLOB_SIZE, MIN_CHUNK};
pub use chunk_map::{
    BlockValues, ChunkMap, ChunkValue, FillError, MapError, Mismatch, Verified, VerifiedChunk, hash_chunk,
};
pub use chunk_set::{ChunkSet, ChunkSetError};
pub use claims::ClaimChecker;
pub use digest::{Algorithm, Digest, DigestError};
pub use entry::{Attestation, Entry, EntryError, LeaseToken, SignedAttestation, SignedEntry};
pub use image_name::{ImageName, ImageNameError};
pub use index_claim::{IndexClaim, SignedIndexClaim};
pub use libp2p_identity::Keypair;
pub use node::{NodeId, NodeIdError};
pub use platform::host_architecture;
pub use reference::{Reference, ReferenceError, Repository, Tag};
pub use swarm_id::{RegistryName, RegistryNameError, SwarmId};
