//! A layer's table of contents and its canonical bytes.

use shoal_proto::{Algorithm, Digest};

use super::codec::{DecodeError, Decoder, Encoder};
use super::spans::{Entrance, MAX_SPANS, Span, SpanTable, WindowRef};
use super::tree_codec;
use crate::tree::{Kind, Tree};

/// Of the canonical bytes, and of the rules by which a builder cuts.
pub(super) const VERSION: u64 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Zstd,
}

/// BLAKE3 of an index's canonical bytes. It covers everything: two builders that read the same layer get the same
/// one, and what it names gives one tree and one content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexId(pub [u8; 32]);

/// The table of contents of one layer. Its windows are kept apart, each under the hash that its span names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerIndex {
    pub layer: Digest,
    /// Digest of the uncompressed tar, as its builder computed it.
    pub diff_id: Digest,
    pub compression: Compression,
    /// The distance of cuts that the builder aimed at, in bytes of tar.
    pub span_size: u64,
    pub spans: SpanTable,
    pub tree: Tree,
}

impl LayerIndex {
    /// The canonical bytes: one index, one encoding.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        out.number(VERSION);
        encode_digest(&mut out, &self.layer);
        encode_digest(&mut out, &self.diff_id);
        out.number(match self.compression {
            Compression::None => 0,
            Compression::Gzip => 1,
            Compression::Zstd => 2,
        });
        out.number(self.span_size);
        encode_spans(&mut out, &self.spans);
        tree_codec::encode(&mut out, &self.tree);
        out.0
    }

    /// Accepts exactly what [`encode`](Self::encode) makes of some sound index. Allocates in proportion to
    /// `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder(bytes);
        match from.number()? {
            VERSION => {}
            other => return Err(DecodeError::Version(other)),
        }
        let layer = decode_digest(&mut from)?;
        let diff_id = decode_digest(&mut from)?;
        let compression = match from.number()? {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Zstd,
            _ => return Err(DecodeError::Invalid("compression")),
        };
        let span_size = from.number()?;
        let spans = decode_spans(&mut from, compression)?;
        let tree = tree_codec::decode(&mut from)?;
        from.end()?;
        let index = Self { layer, diff_id, compression, span_size, spans, tree };
        if index.extents_lie_in_the_tar() { Ok(index) } else { Err(DecodeError::Invalid("extents")) }
    }

    pub fn id(&self) -> IndexId {
        IndexId(*blake3::hash(&self.encode()).as_bytes())
    }

    fn extents_lie_in_the_tar(&self) -> bool {
        let tar_size = self.spans.tar_size();
        let files = self.tree.nodes.iter().filter_map(|node| match &node.kind {
            Kind::File { extents, .. } => Some(extents),
            _ => None,
        });
        files
            .flatten()
            .all(|extent| extent.tar_offset.checked_add(extent.len).is_some_and(|end| end <= tar_size))
    }
}

fn encode_digest(out: &mut Encoder, digest: &Digest) {
    out.number(match digest.algorithm() {
        Algorithm::Sha256 => 0,
        Algorithm::Sha512 => 1,
    });
    out.raw(digest.hash());
}

fn decode_digest(from: &mut Decoder<'_>) -> Result<Digest, DecodeError> {
    let algorithm = match from.number()? {
        0 => Algorithm::Sha256,
        1 => Algorithm::Sha512,
        _ => return Err(DecodeError::Invalid("digests")),
    };
    let hash = from.raw(algorithm.hash_len())?;
    Digest::from_hash(algorithm, hash).ok_or(DecodeError::Invalid("digests"))
}

fn encode_spans(out: &mut Encoder, spans: &SpanTable) {
    out.number(spans.layer_size());
    out.number(spans.tar_size());
    out.count(spans.len());
    let (mut compressed, mut tar) = (0, 0);
    for span in spans.iter() {
        out.number(span.compressed_start.wrapping_sub(compressed));
        out.number(span.tar_start.wrapping_sub(tar));
        (compressed, tar) = (span.compressed_start, span.tar_start);
        out.raw(&span.hash);
        match span.entrance {
            Entrance::Frame => out.number(8),
            Entrance::Block { bits, window } => {
                out.number(bits.into());
                out.number(window.len.into());
                if window.len > 0 {
                    out.raw(&window.hash);
                }
            }
        }
    }
}

fn decode_spans(from: &mut Decoder<'_>, compression: Compression) -> Result<SpanTable, DecodeError> {
    let layer_size = from.number()?;
    let tar_size = from.number()?;
    let count = from.count(MAX_SPANS, "spans")?;
    let mut spans = Vec::new();
    let (mut compressed, mut tar) = (0u64, 0u64);
    for _ in 0..count {
        compressed = compressed.checked_add(from.number()?).ok_or(DecodeError::Number)?;
        tar = tar.checked_add(from.number()?).ok_or(DecodeError::Number)?;
        let hash = from.array()?;
        let entrance = match from.number()? {
            8 => Entrance::Frame,
            bits if compression == Compression::Gzip => {
                let bits = u8::try_from(bits).map_err(|_| DecodeError::Number)?;
                let len = from.narrow()?;
                let hash = if len > 0 { from.array()? } else { EMPTY_WINDOW.hash };
                Entrance::Block { bits, window: WindowRef { len, hash } }
            }
            _ => return Err(DecodeError::Invalid("entrances")),
        };
        spans.push(Span { compressed_start: compressed, entrance, tar_start: tar, hash });
    }
    SpanTable::new(spans, layer_size, tar_size).ok_or(DecodeError::Invalid("spans"))
}

/// What a span has that refers to nothing before it. Its hash is written nowhere.
pub(crate) const EMPTY_WINDOW: WindowRef = WindowRef { len: 0, hash: [0; 32] };
