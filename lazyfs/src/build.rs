//! Builds a layer's index in one pass over the layer, as it is downloaded.

mod gzip;
mod plain;
mod recorder;
mod window;
mod zstd_frames;

use std::io;

use shoal_proto::Digest;

use crate::TarError;
use crate::index::{Compression, HeadError, LayerIndex};
use crate::inflate::Corrupt;
use recorder::Recorder;

pub use recorder::BuildSink;

/// The distance of cuts, in bytes of tar, where nothing else is asked for.
pub const DEFAULT_SPAN: u64 = 1 << 20;
/// Bytes by which a layer's compression is told: what containerd looks at.
const MAGIC_LEN: usize = 4;

/// Why a layer has no index. It is then pulled whole, as without lazy reading.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("the layer is no valid {0:?} data")]
    Corrupt(Compression),
    #[error("the layer ends too early")]
    Truncated,
    #[error("the layer goes on after its compressed data")]
    Trailing,
    #[error(
        "the layer cannot be cut: {tar} bytes of its tar, {compressed} compressed, hold no place to begin at"
    )]
    NoCut { tar: u64, compressed: u64 },
    #[error(
        "the layer is so much smaller than its tar, of more than {most} bytes, that it looks like a bomb"
    )]
    TooLarge { most: u64 },
    #[error("the layer has more spans than an index can hold")]
    TooManySpans,
    #[error("the layer should have {want} bytes and has {got}")]
    Size { want: u64, got: u64 },
    #[error("cannot keep what was built: {0}")]
    Sink(#[from] io::Error),
    #[error(transparent)]
    Head(#[from] HeadError),
}

impl From<Corrupt> for BuildError {
    fn from(_: Corrupt) -> Self {
        Self::Corrupt(Compression::Gzip)
    }
}

enum Reader {
    /// The first bytes, as long as they do not tell what the layer is.
    Unknown(Vec<u8>),
    Plain(plain::Plain),
    Gzip(Box<gzip::Gzip>),
    Zstd(Box<zstd_frames::Frames>),
}

/// A finished index, and the lengths of the windows that the sink got (0 where a span has none).
#[derive(Debug)]
pub struct Built<S> {
    pub index: LayerIndex,
    pub window_lengths: Vec<u32>,
    pub sink: S,
}

/// Takes a layer's bytes and makes its index.
pub struct IndexBuilder<S> {
    layer: Digest,
    size: u64,
    pushed: u64,
    reader: Reader,
    recorder: Recorder<S>,
}

impl<S> std::fmt::Debug for IndexBuilder<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndexBuilder").field("layer", &self.layer).finish_non_exhaustive()
    }
}

impl<S: BuildSink> IndexBuilder<S> {
    /// For a layer of `size` bytes. That its bytes match `layer` is for the caller to check, who hashes them
    /// anyway.
    pub fn new(layer: Digest, size: u64, span_size: u64, sink: S) -> Result<Self, BuildError> {
        Ok(Self {
            layer,
            size,
            pushed: 0,
            reader: Reader::Unknown(Vec::new()),
            recorder: Recorder::new(size, span_size, sink)?,
        })
    }

    /// Takes the next bytes of the layer.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), BuildError> {
        self.pushed += bytes.len() as u64;
        let Reader::Unknown(first) = &mut self.reader else { return self.feed(bytes) };
        first.extend_from_slice(bytes);
        if first.len() < MAGIC_LEN { Ok(()) } else { self.begin() }
    }

    /// The index, after the layer's last byte.
    pub fn finish(mut self) -> Result<Built<S>, BuildError> {
        if self.pushed != self.size {
            return Err(BuildError::Size { want: self.size, got: self.pushed });
        }
        if matches!(self.reader, Reader::Unknown(_)) {
            self.begin()?;
        }
        let compression = match self.reader {
            Reader::Unknown(_) | Reader::Plain(_) => Compression::None,
            Reader::Gzip(mut gzip) => gzip.finish(&mut self.recorder).map(|()| Compression::Gzip)?,
            Reader::Zstd(frames) => frames.finish().map(|()| Compression::Zstd)?,
        };
        self.recorder.finish(self.layer, self.size, compression)
    }

    fn begin(&mut self) -> Result<(), BuildError> {
        let Reader::Unknown(first) = &mut self.reader else { return Ok(()) };
        let first = std::mem::take(first);
        self.reader = match &*first {
            [0x1f, 0x8b, 8, ..] => Reader::Gzip(Box::default()),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
                Reader::Zstd(Box::new(zstd_frames::Frames::new()?))
            }
            _ => Reader::Plain(plain::Plain::default()),
        };
        self.feed(&first)
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), BuildError> {
        match &mut self.reader {
            Reader::Unknown(_) => Ok(()),
            Reader::Plain(plain) => plain.push(bytes, &mut self.recorder),
            Reader::Gzip(gzip) => gzip.push(bytes, &mut self.recorder),
            Reader::Zstd(frames) => frames.push(bytes, &mut self.recorder),
        }
    }
}
