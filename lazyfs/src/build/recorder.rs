//! What every compression has in common: the tar's bytes go through here, and the cuts between spans.

use std::io;

use shoal_proto::Digest;

use super::{BuildError, Built};
use crate::index::{
    Compression, Entrance, LayerIndex, MAX_SPAN, MAX_SPAN_COMPRESSED, Span, SpanTable, WindowCompressor,
    WindowRef,
};
use crate::tar::TarStream;

/// Keeps what a builder makes on the way.
pub trait BuildSink {
    /// The next bytes of the uncompressed tar.
    fn tar(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// The next compressed window: in the order of spans, and only of those that have one.
    fn window(&mut self, compressed: &[u8]) -> io::Result<()>;
}

/// Keeps the windows, one after the other as in an index file, and not the tar.
impl BuildSink for Vec<u8> {
    fn tar(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn window(&mut self, compressed: &[u8]) -> io::Result<()> {
        self.extend_from_slice(compressed);
        Ok(())
    }
}

/// Bytes of tar that any layer may have, and how many times its own bytes above that. Layers above a GiB of tar hold
/// programs and data, which shrink to a half or a tenth; only long zeros shrink to a thousandth, and those would keep
/// the builder busy, and then everybody's disk, for as long as somebody likes.
const ANY_TAR: u64 = 1 << 30;
const MAX_RATIO: u64 = 32;

pub(super) struct Recorder<S> {
    span_size: u64,
    /// Bytes of tar that may come.
    most: u64,
    sink: S,
    tar: TarStream,
    diff_id: ring::digest::Context,
    /// Bytes of tar so far.
    out: u64,
    /// The multiple of the span size from which on the next cut is made.
    target: u64,
    spans: Vec<Span>,
    window_lengths: Vec<u32>,
    windows: WindowCompressor,
    hasher: blake3::Hasher,
}

impl<S: BuildSink> Recorder<S> {
    pub(super) fn new(layer_size: u64, span_size: u64, sink: S) -> Result<Self, BuildError> {
        Ok(Self {
            span_size: span_size.clamp(1, MAX_SPAN),
            most: layer_size.saturating_mul(MAX_RATIO).saturating_add(ANY_TAR),
            sink,
            tar: TarStream::new(),
            diff_id: ring::digest::Context::new(&ring::digest::SHA256),
            out: 0,
            target: 0,
            spans: Vec::new(),
            window_lengths: Vec::new(),
            windows: WindowCompressor::new()?,
            hasher: blake3::Hasher::new(),
        })
    }

    /// Bytes of tar that are still to come before a cut may be made.
    pub(super) fn until_cut(&self) -> u64 {
        self.target.saturating_sub(self.out)
    }

    /// The next bytes of the tar. `compressed_at` is how far the layer was read for them.
    pub(super) fn output(&mut self, bytes: &[u8], compressed_at: u64) -> Result<(), BuildError> {
        self.out += bytes.len() as u64;
        if self.out > self.most {
            return Err(BuildError::TooLarge { most: self.most });
        }
        self.check_span(compressed_at)?;
        self.hasher.update(bytes);
        self.diff_id.update(bytes);
        self.tar.push(bytes)?;
        self.sink.tar(bytes)?;
        Ok(())
    }

    /// A decoder that reads without anything coming out calls this now and then.
    pub(super) fn check_span(&self, compressed_at: u64) -> Result<(), BuildError> {
        let (tar_start, compressed_start) =
            self.spans.last().map_or((0, 0), |span| (span.tar_start, span.compressed_start));
        let tar = self.out - tar_start;
        let compressed = compressed_at.saturating_sub(compressed_start);
        if tar > MAX_SPAN || compressed > MAX_SPAN_COMPRESSED {
            return Err(BuildError::NoCut { tar, compressed });
        }
        Ok(())
    }

    /// Bytes of tar of the span that has begun last.
    pub(super) fn span_len(&self) -> u64 {
        self.out - self.spans.last().map_or(0, |span| span.tar_start)
    }

    /// A new span begins here, if it is time for one; says whether it does.
    pub(super) fn cut(&mut self, compressed_start: u64, entrance: Entrance) -> bool {
        // Where no byte came out since the last cut, a reader needs no second place to begin at.
        let empty = !self.spans.is_empty() && self.span_len() == 0;
        if self.out < self.target || empty {
            return false;
        }
        self.close_span();
        self.spans.push(Span { compressed_start, entrance, tar_start: self.out, hash: [0; 32] });
        self.target = (self.out / self.span_size + 1) * self.span_size;
        true
    }

    fn close_span(&mut self) {
        let hash = *self.hasher.finalize().as_bytes();
        if let Some(span) = self.spans.last_mut() {
            span.hash = hash;
        }
        self.hasher.reset();
    }

    /// The window of the first span that has none yet; called once for each span, in order.
    pub(super) fn window(&mut self, window: &[u8]) -> Result<(), BuildError> {
        let at = self.window_lengths.len();
        let Some(Span { entrance: Entrance::Block { window: slot, .. }, .. }) = self.spans.get_mut(at) else {
            self.window_lengths.push(0);
            return Ok(());
        };
        if window.is_empty() {
            self.window_lengths.push(0);
            return Ok(());
        }
        let len = u16::try_from(window.len()).map_err(|_| BuildError::Corrupt(Compression::Gzip))?;
        *slot = WindowRef { len, hash: *blake3::hash(window).as_bytes() };
        let compressed = self.windows.compress(window)?;
        self.sink.window(&compressed)?;
        self.window_lengths.push(u32::try_from(compressed.len()).unwrap_or(u32::MAX));
        Ok(())
    }

    pub(super) fn finish(
        mut self,
        layer: Digest,
        layer_size: u64,
        compression: Compression,
    ) -> Result<Built<S>, BuildError> {
        // The last span may have begun just before the end: what follows it is only a checksum.
        if self.span_len() == 0 {
            self.spans.pop();
        } else {
            self.close_span();
        }
        self.window_lengths.resize(self.spans.len(), 0);
        let digest = self.diff_id.finish();
        let diff_id = Digest::sha256(digest.as_ref().try_into().unwrap_or_default());
        let tree = self.tar.finish()?;
        let spans = SpanTable::new(self.spans, layer_size, self.out).ok_or(BuildError::TooManySpans)?;
        let index = LayerIndex { layer, diff_id, compression, span_size: self.span_size, spans, tree };
        Ok(Built { index, window_lengths: self.window_lengths, sink: self.sink })
    }
}
