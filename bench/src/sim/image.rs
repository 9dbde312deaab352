//! The image that is pulled: blobs whose bytes are stood for by what each chunk hashes to.

use shoal_proto::{ChunkIndex, ChunkLayout, ChunkValue, Digest, LayoutError, RegistryName, SwarmId};

/// A blob's number within the image.
pub(super) type BlobId = usize;

/// One layer.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) swarm: SwarmId,
    pub(super) layout: ChunkLayout,
    /// All nodes have it before the run begins.
    pub(super) shared: bool,
}

/// The layers.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) blobs: Vec<Blob>,
}

impl Image {
    pub(super) fn new(origin: &RegistryName, layers: &[(u64, bool)]) -> Result<Self, LayoutError> {
        let blob = |(number, (size, shared)): (u32, &(u64, bool))| {
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&number.to_be_bytes());
            let swarm =
                SwarmId { digest: Digest::sha256(hash), size: *size, origin: origin.clone(), round: 0 };
            Ok(Blob { layout: swarm.layout()?, swarm, shared: *shared })
        };
        Ok(Self { blobs: (0u32..).zip(layers).map(blob).collect::<Result<_, LayoutError>>()? })
    }

    /// Which blob a swarm is of.
    pub(super) fn id(&self, swarm: &SwarmId) -> BlobId {
        let hash = swarm.digest.hash();
        u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) as usize
    }

    pub(super) fn bytes(&self) -> u64 {
        self.blobs.iter().map(|blob| blob.layout.size()).sum()
    }

    /// Bytes that a node has to receive.
    pub(super) fn new_bytes(&self) -> u64 {
        self.blobs.iter().filter(|blob| !blob.shared).map(|blob| blob.layout.size()).sum()
    }

    /// Chunks that a node has to receive.
    pub(super) fn new_chunks(&self) -> usize {
        self.blobs.iter().filter(|blob| !blob.shared).map(|blob| blob.layout.count() as usize).sum()
    }

    pub(super) fn len_of(&self, blob: BlobId, chunk: u32) -> u64 {
        self.blobs[blob].layout.len_of(ChunkIndex(chunk))
    }

    /// What a chunk of the true blob hashes to.
    pub(super) fn truth(&self, blob: BlobId, chunk: u32) -> ChunkValue {
        let mut value = [0; 32];
        value[..4].copy_from_slice(&self.blobs[blob].swarm.digest.hash()[..4]);
        value[4..8].copy_from_slice(&chunk.to_be_bytes());
        ChunkValue(value)
    }

    /// What a liar's bytes in its place hash to.
    pub(super) fn lie(&self, blob: BlobId, chunk: u32) -> ChunkValue {
        let mut value = self.truth(blob, chunk);
        value.0[31] = 1;
        value
    }
}
