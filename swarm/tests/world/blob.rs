//! Blobs, and what their chunks hash to.

use super::*;

/// A swarm of a blob of so many bytes, told apart by `name`.
pub fn blob(name: u8, size: u64) -> SwarmId {
    SwarmId { digest: Digest::sha256([name; 32]), size, origin: "registry.test".parse().unwrap(), round: 0 }
}

pub fn from_origin(origin: &str, swarm: &SwarmId) -> SwarmId {
    SwarmId { origin: origin.parse().unwrap(), ..swarm.clone() }
}

pub fn chunks(swarm: &SwarmId) -> u32 {
    swarm.layout().unwrap().count()
}

/// What a chunk of the real blob hashes to.
pub fn truth(swarm: &SwarmId, chunk: u32) -> ChunkValue {
    let mut value = [0; 32];
    value[0] = swarm.digest.hash()[0];
    value[4..8].copy_from_slice(&chunk.to_be_bytes());
    ChunkValue(value)
}

pub(super) fn wrong(swarm: &SwarmId, chunk: u32) -> ChunkValue {
    let mut value = truth(swarm, chunk);
    value.0[31] = 0xbd;
    value
}
