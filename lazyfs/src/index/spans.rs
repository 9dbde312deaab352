//! The spans of a layer: cuts of its uncompressed tar, each readable from its own range of the layer.

use std::ops::Range;

use crate::inflate::WINDOW;

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// Bytes of tar in one span. A compressor whose blocks are longer than this leaves no place to cut; such a layer
/// is not served lazily. zlib's blocks have 4 MiB at most, pigz's 128 KiB, those of zstd's frames any length.
pub const MAX_SPAN: u64 = 16 << 20;
/// Bytes of the layer that one span may need. More than its tar has only if it holds empty blocks without end.
pub const MAX_SPAN_COMPRESSED: u64 = 2 * MAX_SPAN;
/// Spans of one layer: 512 GiB of tar in spans of 512 KiB.
pub(super) const MAX_SPANS: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanIndex(pub u32);

/// Bytes of tar just before a span, to which its compressed bytes refer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowRef {
    /// At most 32 KiB; 0 if the span refers to nothing before it.
    pub len: u16,
    pub hash: Hash,
}

/// How a reader gets into the compressed bytes at a span's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// The start of a gzip member or zstd frame; any byte of a plain tar.
    Frame,
    /// A deflate block within a gzip member. Its first `bits` bits (0 to 7) are the high ones of the first byte;
    /// with 0 it begins with a whole byte.
    Block { bits: u8, window: WindowRef },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first byte of the layer that it needs.
    pub compressed_start: u64,
    pub entrance: Entrance,
    /// The first byte of the tar that it holds.
    pub tar_start: u64,
    /// BLAKE3 of its bytes of the tar.
    pub hash: Hash,
}

impl Span {
    fn shares_first_byte(&self) -> bool {
        matches!(self.entrance, Entrance::Block { bits: 1.., .. })
    }
}

/// All spans of a layer, in order and without gaps. An empty tar has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanTable {
    spans: Vec<Span>,
    layer_size: u64,
    tar_size: u64,
}

impl SpanTable {
    /// `None` if the spans do not cover a tar of this size in order, or break a bound.
    pub fn new(spans: Vec<Span>, layer_size: u64, tar_size: u64) -> Option<Self> {
        let table = Self { spans, layer_size, tar_size };
        let starts_at_zero = match table.spans.first() {
            Some(first) => first.tar_start == 0 && tar_size > 0,
            None => tar_size == 0,
        };
        let sound = |index: SpanIndex| {
            let (tar, compressed) = (table.tar_range(index)?, table.compressed_range(index)?);
            let span = table.get(index)?;
            let entrance = match span.entrance {
                Entrance::Frame => true,
                Entrance::Block { bits, window } => bits < 8 && usize::from(window.len) <= WINDOW,
            };
            Some(
                entrance
                    && tar.start < tar.end
                    && tar.end - tar.start <= MAX_SPAN
                    && compressed.start < compressed.end
                    && compressed.end <= layer_size
                    && compressed.end - compressed.start <= MAX_SPAN_COMPRESSED,
            )
        };
        let ordered =
            table.spans.len() <= MAX_SPANS && table.indexes().all(|index| sound(index) == Some(true));
        (starts_at_zero && ordered).then_some(table)
    }

    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// Bytes of the uncompressed tar.
    pub fn tar_size(&self) -> u64 {
        self.tar_size
    }

    pub fn layer_size(&self) -> u64 {
        self.layer_size
    }

    pub fn indexes(&self) -> impl DoubleEndedIterator<Item = SpanIndex> + use<> {
        (0..u32::try_from(self.spans.len()).unwrap_or(u32::MAX)).map(SpanIndex)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Span> {
        self.spans.iter()
    }

    pub fn get(&self, index: SpanIndex) -> Option<&Span> {
        self.spans.get(index.0 as usize)
    }

    /// The bytes of the tar that a span holds.
    pub fn tar_range(&self, index: SpanIndex) -> Option<Range<u64>> {
        let end = self.spans.get(index.0 as usize + 1).map_or(self.tar_size, |next| next.tar_start);
        self.get(index).map(|span| span.tar_start..end)
    }

    /// The bytes of the layer that a span is read from.
    pub fn compressed_range(&self, index: SpanIndex) -> Option<Range<u64>> {
        let end = match self.spans.get(index.0 as usize + 1) {
            Some(next) => next.compressed_start.checked_add(u64::from(next.shares_first_byte()))?,
            None => self.layer_size,
        };
        self.get(index).map(|span| span.compressed_start..end)
    }

    /// The spans that hold a range of the tar; what lies beyond its end is left out.
    pub fn covering(&self, range: Range<u64>) -> impl DoubleEndedIterator<Item = SpanIndex> + use<> {
        let range = range.start..range.end.min(self.tar_size);
        let holds = |at: u64| self.spans.partition_point(|span| span.tar_start <= at).saturating_sub(1);
        let spans = match range.is_empty() {
            true => 0..0,
            false => holds(range.start)..holds(range.end - 1) + 1,
        };
        let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        (number(spans.start)..number(spans.end)).map(SpanIndex)
    }
}
