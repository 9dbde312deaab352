//! An index as a file: a short header, the table of contents, a list of the windows' lengths, the windows.
//!
//! Table and windows are compressed, so this file may differ between builders with different versions of zstd.
//! What they agree on is the [`IndexId`]. The head (all but the windows) is enough to mount; each window is
//! fetched when the first byte of its span is.

use std::ops::Range;

use super::codec::{DecodeError, Decoder, Encoder};
use super::spans::{Entrance, MAX_SPANS, SpanIndex, WindowRef};
use super::toc::{IndexId, LayerIndex};
use crate::inflate::WINDOW;

/// Bytes of the header.
pub const HEADER_LEN: usize = 64;
const MAGIC: &[u8; 8] = b"SHOALIX1";
/// Bytes of a table of contents, compressed or not: what the bounds on entries, text and spans allow.
const MAX_TOC: u64 = 256 << 20;
/// Bytes of the list of the windows' lengths.
const MAX_LENGTHS: u64 = 4 * MAX_SPANS as u64;
/// Bytes of one compressed window: zstd may add a little to what it cannot shrink.
const MAX_WINDOW: u64 = WINDOW as u64 + 512;
/// zstd's level for the table of contents: read often, written once.
const TOC_LEVEL: i32 = 9;
/// zstd's level for windows. They are mostly zeros; level 3 makes them 1 % smaller and takes twice the time.
const WINDOW_LEVEL: i32 = 1;

/// The first [`HEADER_LEN`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub id: IndexId,
    toc_compressed: u64,
    toc: u64,
    lengths: u64,
}

/// Why the head of an index file is refused.
#[derive(Debug, thiserror::Error)]
pub enum HeadError {
    #[error("not the header of an index of this version")]
    Header,
    #[error("the table of contents of the index cannot be decompressed: {0}")]
    Compressed(std::io::Error),
    #[error("the table of contents of the index is not the one that its header names")]
    Mismatch,
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("a window of the index cannot be decompressed")]
    Window,
}

impl Header {
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, HeadError> {
        let mut from = Decoder(bytes);
        let magic: [u8; 8] = from.array()?;
        let id = IndexId(from.array()?);
        let mut length = || from.array().map(u64::from_le_bytes);
        let header = Self { id, toc_compressed: length()?, toc: length()?, lengths: length()? };
        let sound = magic == *MAGIC
            && header.toc_compressed <= MAX_TOC
            && header.toc <= MAX_TOC
            && header.lengths <= MAX_LENGTHS;
        if sound { Ok(header) } else { Err(HeadError::Header) }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.id.0);
        for length in [self.toc_compressed, self.toc, self.lengths] {
            out.extend_from_slice(&length.to_le_bytes());
        }
        out
    }

    /// Bytes of the head, this header included: what to read in order to mount.
    pub fn head_len(&self) -> u64 {
        HEADER_LEN as u64 + self.toc_compressed + self.lengths
    }
}

/// All of an index file but the windows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub id: IndexId,
    pub index: LayerIndex,
    /// Where each span's window begins in the file, and where the last one ends.
    windows: Vec<u64>,
}

/// The head for an index whose windows, once compressed, have these lengths (0 where a span has none).
pub fn encode_head(index: &LayerIndex, window_lengths: &[u32]) -> Result<Vec<u8>, HeadError> {
    let toc = index.encode();
    let id = IndexId(*blake3::hash(&toc).as_bytes());
    let compressed = zstd::bulk::compress(&toc, TOC_LEVEL).map_err(HeadError::Compressed)?;
    let mut lengths = Encoder::default();
    for &length in window_lengths {
        lengths.number(length.into());
    }
    let header = Header {
        id,
        toc_compressed: compressed.len() as u64,
        toc: toc.len() as u64,
        lengths: lengths.0.len() as u64,
    };
    Ok([header.encode(), compressed, lengths.0].concat())
}

impl Head {
    /// Decodes the head: exactly [`Header::head_len`] bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeadError> {
        let (first, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(DecodeError::Truncated)?;
        let header = Header::decode(first)?;
        if bytes.len() as u64 != header.head_len() {
            return Err(DecodeError::Truncated.into());
        }
        let toc_len = usize::try_from(header.toc_compressed).map_err(|_| HeadError::Header)?;
        let (toc, lengths) = rest.split_at_checked(toc_len).ok_or(DecodeError::Truncated)?;
        let toc = decompress(toc, header.toc)?;
        if *blake3::hash(&toc).as_bytes() != header.id.0 {
            return Err(HeadError::Mismatch);
        }
        let index = LayerIndex::decode(&toc)?;
        let windows = window_starts(&index, lengths, header.head_len())?;
        Ok(Self { id: header.id, index, windows })
    }

    /// Where in the index file the compressed window of a span lies; `None` for a span without one.
    pub fn window_range(&self, span: SpanIndex) -> Option<Range<u64>> {
        let at = span.0 as usize;
        let range = *self.windows.get(at)?..*self.windows.get(at + 1)?;
        (!range.is_empty()).then_some(range)
    }

    /// Bytes of the whole index file.
    pub fn file_len(&self) -> u64 {
        self.windows.last().copied().unwrap_or_default()
    }
}

/// Decompresses to `len` bytes and no more; room is made as they come, not because the header says so.
fn decompress(bytes: &[u8], len: u64) -> Result<Vec<u8>, HeadError> {
    use std::io::Read as _;
    let mut toc = Vec::new();
    let decoder = zstd::Decoder::with_buffer(bytes).map_err(HeadError::Compressed)?;
    decoder.take(len + 1).read_to_end(&mut toc).map_err(HeadError::Compressed)?;
    if toc.len() as u64 == len { Ok(toc) } else { Err(HeadError::Mismatch) }
}

fn window_starts(index: &LayerIndex, lengths: &[u8], head_len: u64) -> Result<Vec<u64>, DecodeError> {
    let mut from = Decoder(lengths);
    let mut at = head_len;
    let mut starts = vec![at];
    for span in index.spans.iter() {
        let length = from.number()?;
        let has_window = matches!(span.entrance, Entrance::Block { window: WindowRef { len: 1.., .. }, .. });
        if (length > 0) != has_window || length > MAX_WINDOW {
            return Err(DecodeError::Invalid("windows"));
        }
        at += length;
        starts.push(at);
    }
    from.end()?;
    Ok(starts)
}

/// Makes windows what the file holds.
pub(crate) struct WindowCompressor(zstd::bulk::Compressor<'static>);

impl WindowCompressor {
    pub(crate) fn new() -> Result<Self, HeadError> {
        zstd::bulk::Compressor::new(WINDOW_LEVEL).map(Self).map_err(|_| HeadError::Window)
    }

    pub(crate) fn compress(&mut self, window: &[u8]) -> Result<Vec<u8>, HeadError> {
        self.0.compress(window).map_err(|_| HeadError::Window)
    }
}

/// A window from the file, checked against what its span says.
pub(crate) fn decompress_window(compressed: &[u8], want: &WindowRef) -> Result<Vec<u8>, HeadError> {
    let window = zstd::bulk::decompress(compressed, want.len.into()).map_err(|_| HeadError::Window)?;
    let matches = window.len() == usize::from(want.len) && *blake3::hash(&window).as_bytes() == want.hash;
    if matches { Ok(window) } else { Err(HeadError::Window) }
}
