//! What tests of several modules need.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, clippy::indexing_slicing)]

use bytes::Bytes;
use shoal_proto::{Algorithm, ChunkIndex, SwarmId, VerifiedChunk};
use shoal_store::{ContentHasher, Store};

/// Puts a whole blob into the store.
pub(crate) fn put(store: &Store, content: &Bytes) -> SwarmId {
    let swarm = SwarmId {
        digest: ContentHasher::digest(Algorithm::Sha256, content),
        size: content.len() as u64,
        origin: "registry.test".parse().unwrap(),
        round: 0,
    };
    let layout = swarm.layout().unwrap();
    let _partial = store.begin(&swarm).unwrap();
    for index in (0..layout.count()).map(ChunkIndex) {
        let range = layout.range(index);
        let bytes = content.slice(range.start as usize..range.end as usize);
        let chunk = VerifiedChunk::from_origin(&layout, index, bytes).unwrap();
        store.write_chunk(&swarm, chunk, b"").unwrap();
    }
    store.finish(&swarm, |_| Vec::new()).unwrap();
    swarm
}
