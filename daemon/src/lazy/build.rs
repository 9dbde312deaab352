//! Builds the index of a layer that is here as a whole, and keeps it in the store, under the digest of its file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use shoal_lazyfs::build::{BuildError, BuildSink, DEFAULT_SPAN, IndexBuilder};
use shoal_lazyfs::index::{HeadError, encode_head};
use shoal_proto::{
    Algorithm, ChunkLayout, EntryError, IndexClaim, Keypair, LayoutError, Mismatch, NodeId, SwarmId,
    VerifiedChunk,
};
use shoal_store::{ContentHasher, FinishError, IndexFact, ReadError, Store, StoreError};

/// Bytes of an index that are hashed at once.
const PIECE: u64 = 1 << 20;

/// Why there is no index.
#[derive(Debug, thiserror::Error)]
pub(super) enum IndexError {
    /// The layer cannot be indexed, now or later.
    #[error(transparent)]
    Layer(BuildError),
    #[error("keep the windows of an index: {0}")]
    Windows(#[from] io::Error),
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Finish(#[from] FinishError),
    #[error("the index is larger than a blob may be: {0}")]
    Size(#[from] LayoutError),
    #[error("the index changed while it was kept: {0}")]
    Changed(#[from] Mismatch),
    #[error("sign for an index: {0}")]
    Sign(#[from] EntryError),
    #[error("the node is stopping")]
    Stopping,
}

impl From<BuildError> for IndexError {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Sink(error) => Self::Windows(error),
            error => Self::Layer(error),
        }
    }
}

/// What builds, and in whose name.
#[derive(Clone, Debug)]
pub(super) struct Builder {
    pub(super) store: Store,
    pub(super) key: Keypair,
    pub(super) me: NodeId,
}

/// Windows on their way to a file without a name.
struct Windows(BufWriter<File>);

impl BuildSink for Windows {
    fn tar(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn window(&mut self, compressed: &[u8]) -> io::Result<()> {
        self.0.write_all(compressed)
    }
}

/// An index file before it is a blob: its head, then the windows.
struct IndexFile {
    head: Vec<u8>,
    windows: File,
    len: u64,
}

impl IndexFile {
    fn read(&self, range: std::ops::Range<u64>) -> io::Result<Bytes> {
        let to_usize = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let head = self.head.get(to_usize(range.start)..).unwrap_or_default();
        let mut bytes = head.get(..to_usize(range.end - range.start)).unwrap_or(head).to_vec();
        let at = range.start + bytes.len() as u64;
        let from_head = bytes.len();
        bytes.resize(to_usize(range.end - range.start), 0);
        let rest = bytes.get_mut(from_head..).unwrap_or_default();
        self.windows.read_exact_at(rest, at.saturating_sub(self.head.len() as u64))?;
        Ok(bytes.into())
    }
}

impl Builder {
    /// Reads the layer once, and keeps and signs what came out. Blocks for as long as that takes, about a second for
    /// 150 MB. `stop` is asked now and then.
    pub(super) fn build(&self, layer: &SwarmId, stop: &dyn Fn() -> bool) -> Result<IndexClaim, IndexError> {
        // Nobody asked for the layer: it stays no longer for this.
        let mut reader = self.store.look_at(&layer.digest)?;
        let windows = Windows(BufWriter::new(tempfile::tempfile_in(self.store.dir())?));
        let mut builder = IndexBuilder::new(layer.digest, layer.size, DEFAULT_SPAN, windows)?;
        let mut at = 0;
        while at < layer.size {
            if stop() {
                return Err(IndexError::Stopping);
            }
            let bytes = reader.read(at..layer.size)?;
            builder.push(bytes.get())?;
            at += bytes.get().len() as u64;
        }
        let built = builder.finish()?;
        let head = encode_head(&built.index, &built.window_lengths)?;
        let windows = built.sink.0.into_inner().map_err(io::IntoInnerError::into_error)?;
        let len = head.len() as u64 + windows.metadata()?.len();
        let file = IndexFile { head, windows, len };
        let swarm = self.keep(&file, layer)?;
        let claim = IndexClaim {
            layer: layer.digest,
            size: layer.size,
            index: built.index.id().0,
            file: swarm.digest,
            file_len: swarm.size,
            diff_id: built.index.diff_id,
            signer: self.me,
        };
        let signed = claim.clone().sign(&self.key)?;
        // The reader keeps the layer here until then: an index never outlives it.
        self.store
            .put_index(&layer.digest, &IndexFact::Built { file: claim.file, claim: signed.to_bytes() })?;
        drop(reader);
        Ok(claim)
    }

    /// Makes the file a blob of the store.
    fn keep(&self, file: &IndexFile, layer: &SwarmId) -> Result<SwarmId, IndexError> {
        let mut hasher = ContentHasher::new(Algorithm::Sha256);
        let mut at = 0;
        while at < file.len {
            let piece = file.read(at..(at + PIECE).min(file.len))?;
            hasher.update(&piece);
            at += piece.len() as u64;
        }
        let swarm =
            SwarmId { digest: hasher.finish(), size: file.len, origin: layer.origin.clone(), round: 0 };
        let layout = ChunkLayout::new(swarm.size)?;
        let _partial = match self.store.begin(&swarm) {
            Err(StoreError::AlreadyComplete(_)) => return Ok(swarm),
            begun => begun?,
        };
        for index in layout.indexes() {
            let bytes = file.read(layout.range(index))?;
            self.store.write_chunk(&swarm, VerifiedChunk::from_origin(&layout, index, bytes)?, &[])?;
        }
        // Nothing attests it, so it is offered to no swarm: who may have it is decided by its layer.
        self.store.finish(&swarm, |_| Vec::new())?;
        Ok(swarm)
    }
}
