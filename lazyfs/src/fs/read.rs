//! Bytes of a file, put together from where they lie in the tar; between them are zeros.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::try_join_all;

use crate::source::Urgency;
use crate::span_cache::{Layer, ReadError};
use crate::tree::Extent;

/// One read that is to be done.
#[derive(Debug)]
pub struct FileRead {
    layer: Arc<Layer>,
    len: usize,
    /// Where in the tar, and where in what is read; in order.
    pieces: Vec<(u64, Range<usize>)>,
    /// The part of the file in which the read ends, in the tar.
    around: Range<u64>,
}

impl FileRead {
    pub(super) fn new(layer: Arc<Layer>, size: u64, extents: &[Extent], offset: u64, len: usize) -> Self {
        let start = offset.min(size);
        let end = offset.saturating_add(len as u64).min(size);
        let from = extents.partition_point(|extent| extent.file_offset + extent.len <= start);
        let touched = extents.get(from..).unwrap_or_default().iter();
        let pieces = touched
            .take_while(|extent| extent.file_offset < end)
            .map(|extent| {
                let from = extent.file_offset.max(start);
                let to = (extent.file_offset + extent.len).min(end);
                (extent.tar_offset + (from - extent.file_offset), within(from - start)..within(to - start))
            })
            .collect();
        let to = extents.partition_point(|extent| extent.file_offset < end);
        let ended = to.checked_sub(1).and_then(|last| extents.get(last));
        let around = ended.map(|extent| extent.tar_offset..extent.tar_offset + extent.len);
        Self { layer, len: within(end - start), pieces, around: around.unwrap_or_default() }
    }

    /// A read of the tar itself, of which nothing is to be seen but bytes of files: elsewhere are zeros.
    pub(super) fn of_tar(layer: Arc<Layer>, offset: u64, len: usize) -> Self {
        let (all, size) = (layer.clone(), layer.index().spans.tar_size());
        Self::new(layer, size, all.parts(), offset, len)
    }

    /// Bytes that will be read.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `out` if nothing is missing on this disk; says whether it did. Blocks as long as this disk does.
    pub fn local(&self, out: &mut [u8]) -> Result<bool, ReadError> {
        self.clear(out);
        for (start, place) in &self.pieces {
            let piece = out.get_mut(place.clone()).unwrap_or_default();
            if !self.layer.read_local(*start, piece)? {
                return Ok(false);
            }
        }
        self.layer.metrics().read(self.len);
        if let Some(last) = self.last() {
            self.layer.read_on(&last, &self.around);
        }
        Ok(true)
    }

    /// The bytes, with what is missing fetched.
    pub async fn fetch(&self) -> Result<Vec<u8>, ReadError> {
        let begun = Instant::now();
        let mut out = vec![0; self.len];
        let mut rest: &mut [u8] = &mut out;
        let mut at = 0;
        let mut reads = Vec::new();
        for (start, place) in &self.pieces {
            let (_, tail) = rest.split_at_mut(place.start - at);
            let (piece, tail) = tail.split_at_mut(place.len());
            (rest, at) = (tail, place.end);
            reads.push(self.layer.read(*start, piece, Urgency::Demand));
        }
        // What is waited for is asked for first.
        let ahead = async {
            if let Some(last) = self.last() {
                self.layer.read_ahead(&last, &self.around);
            }
        };
        let (read, ()) = futures_util::join!(try_join_all(reads), ahead);
        let metrics = self.layer.metrics();
        metrics.waited(begun.elapsed());
        read?;
        metrics.read(self.len);
        Ok(out)
    }

    /// The last piece, in the tar. Who reads one span of a file after the other is spared the wait for the next one.
    fn last(&self) -> Option<Range<u64>> {
        self.pieces.last().map(|(start, place)| *start..*start + place.len() as u64)
    }

    /// Zeros between the pieces.
    fn clear(&self, out: &mut [u8]) {
        let mut at = 0;
        for (_, place) in &self.pieces {
            out.get_mut(at..place.start).unwrap_or_default().fill(0);
            at = place.end;
        }
        out.get_mut(at..).unwrap_or_default().fill(0);
    }
}

/// A read's length is an address's.
fn within(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
