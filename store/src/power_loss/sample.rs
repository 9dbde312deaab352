//! Blobs that are written.

use bytes::Bytes;
use shoal_proto::{Algorithm, ChunkIndex, SwarmId, VerifiedChunk};

use crate::{BlobName, ContentHasher, ReadError, Store};

pub(super) struct Sample {
    pub(super) swarm: SwarmId,
    content: Bytes,
}

pub(super) fn sample(seed: u64, len: usize) -> Sample {
    let mut rng = fastrand::Rng::with_seed(seed);
    let content: Bytes = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
    let digest = ContentHasher::digest(Algorithm::Sha256, &content);
    let swarm =
        SwarmId { digest, size: len as u64, origin: "registry.example.com".parse().unwrap(), round: 0 };
    Sample { swarm, content }
}

impl Sample {
    pub(super) fn chunk(&self, index: u32) -> VerifiedChunk {
        let layout = self.swarm.layout().unwrap();
        let range = layout.range(ChunkIndex(index));
        let bytes = self.content.slice(range.start as usize..range.end as usize);
        VerifiedChunk::from_origin(&layout, ChunkIndex(index), bytes).unwrap()
    }

    pub(super) fn name(&self) -> BlobName {
        BlobName::Partial(self.swarm.clone().into())
    }

    /// The chunks that a store claims, all of them read and compared.
    pub(super) fn claimed(&self, store: &Store) -> Result<Vec<u32>, ReadError> {
        let digest = &self.swarm.digest;
        let reader = match store.complete(digest) {
            Some(_) => store.reader(digest),
            None => store.partial_reader(&self.swarm),
        };
        let Ok(mut reader) = reader else { return Ok(vec![]) };
        let held: Vec<u32> = reader.held().iter().map(|index| index.0).collect();
        for index in &held {
            let range = reader.layout().range(ChunkIndex(*index));
            let mut at = range.start;
            while at < range.end {
                let part = reader.read(at..range.end)?;
                assert_eq!(part.get()[..], self.content[at as usize..][..part.get().len()], "wrong bytes");
                at += part.get().len() as u64;
            }
        }
        Ok(held)
    }
}
