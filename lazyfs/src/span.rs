//! One span of a layer, from the layer's own bytes to checked bytes of the tar.

use bytes::Bytes;

use crate::index::{Compression, Entrance, LayerIndex, SpanIndex, decompress_window};
use crate::inflate::{Framing, Inflate, Stop};

/// Bytes of a gzip member after its last block: checksum and length.
const GZIP_TRAILER: usize = 8;

/// The bytes of one span, known to be those that the index names. Only a check makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedSpan {
    span: SpanIndex,
    bytes: Bytes,
}

impl VerifiedSpan {
    pub fn span(&self) -> SpanIndex {
        self.span
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Checks bytes of the tar that came from somewhere else than the layer: from this disk, or decoded by a peer.
    pub fn check(index: &LayerIndex, span: SpanIndex, bytes: Bytes) -> Result<Self, SpanError> {
        let entry = index.spans.get(span).ok_or(SpanError::NoSuchSpan(span.0))?;
        let len = index.spans.tar_range(span).map_or(0, |range| range.end - range.start);
        let matches = bytes.len() as u64 == len && *blake3::hash(&bytes).as_bytes() == entry.hash;
        if matches { Ok(Self { span, bytes }) } else { Err(SpanError::Mismatch(span.0)) }
    }

    /// Decodes a span. `compressed` is the layer's [`compressed_range`](crate::index::SpanTable::compressed_range)
    /// of the span, `window` its compressed window from the index file (empty if it has none).
    pub fn decode(
        index: &LayerIndex,
        span: SpanIndex,
        compressed: &[u8],
        window: &[u8],
    ) -> Result<Self, SpanError> {
        let entry = index.spans.get(span).ok_or(SpanError::NoSuchSpan(span.0))?;
        let range = index.spans.tar_range(span).unwrap_or_default();
        let wanted = index.spans.compressed_range(span).unwrap_or_default();
        if compressed.len() as u64 != wanted.end - wanted.start {
            return Err(SpanError::Length(span.0));
        }
        let corrupt = || SpanError::Corrupt(span.0);
        let len = usize::try_from(range.end - range.start).map_err(|_| corrupt())?;
        let mut out = vec![0; len];
        let full = match (index.compression, entry.entrance) {
            (Compression::None, _) => {
                let whole = compressed.len() == len;
                if whole {
                    out.copy_from_slice(compressed);
                }
                whole
            }
            (Compression::Gzip, Entrance::Frame) => {
                inflate_members(&mut Inflate::new(Framing::Gzip), Framing::Gzip, compressed, &mut out)
            }
            (Compression::Gzip, Entrance::Block { bits, window: want }) => {
                let window = match want.len {
                    0 => Vec::new(),
                    _ => decompress_window(window, &want).map_err(|_| SpanError::Window(span.0))?,
                };
                let mut inflate = Inflate::new(Framing::Raw);
                let (first, rest) = match (bits, compressed.split_first()) {
                    (1.., Some((&first, rest))) => (first, rest),
                    _ => (0, compressed),
                };
                inflate.prime(bits, first, &window).map_err(|_| corrupt())?;
                inflate_members(&mut inflate, Framing::Raw, rest, &mut out)
            }
            (Compression::Zstd, _) => {
                zstd::bulk::decompress_to_buffer(compressed, &mut out).is_ok_and(|got| got == len)
            }
        };
        if full { Self::check(index, span, out.into()) } else { Err(corrupt()) }
    }
}

/// Why a span cannot be had from these bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpanError {
    #[error("the layer has no span {0}")]
    NoSuchSpan(u32),
    #[error("the compressed bytes of span {0} are too few or too many")]
    Length(u32),
    #[error("the window of span {0} is not the one that the index names")]
    Window(u32),
    #[error("span {0} cannot be decompressed")]
    Corrupt(u32),
    #[error("span {0} does not match its hash")]
    Mismatch(u32),
}

/// Fills `out`, over the ends of members. False if the bytes do not suffice for it.
fn inflate_members(inflate: &mut Inflate, mut framing: Framing, mut input: &[u8], out: &mut [u8]) -> bool {
    let mut filled = 0;
    while filled < out.len() {
        let Some(space) = out.get_mut(filled..) else { return false };
        let Ok(step) = inflate.step(input, space, false) else { return false };
        filled += step.produced;
        input = input.get(step.consumed..).unwrap_or_default();
        match step.stop {
            Stop::End => {
                if framing == Framing::Raw {
                    input = input.get(GZIP_TRAILER..).unwrap_or_default();
                }
                framing = Framing::Gzip;
                inflate.reset(framing);
            }
            _ if step.consumed == 0 && step.produced == 0 => return false,
            _ => {}
        }
        if input.is_empty() && filled < out.len() && step.produced == 0 {
            return false;
        }
    }
    true
}
