//! What readers of layers got, and what that took.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::source::Urgency;

/// Upper bounds of the counts of waits, in milliseconds: from what a peer on the same machine takes to what readers
/// bear. Those that waited longer are in no count but the last.
pub const WAIT_BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 5_000, 30_000];

/// Counts since the cache was opened.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    fetched: [AtomicU64; 3],
    from_disk: AtomicU64,
    wrong: AtomicU64,
    failed: AtomicU64,
    bytes_fetched: AtomicU64,
    bytes_read: AtomicU64,
    waits: [AtomicU64; WAIT_BOUNDS_MS.len() + 1],
    waited_micros: AtomicU64,
}

/// What readers of a cache's layers got since it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadCounts {
    /// Spans that came from the source, for readers who waited.
    pub spans_on_demand: u64,
    /// Spans that came from the source ahead of a reader.
    pub spans_prefetched: u64,
    /// Spans that came from the source for nobody.
    pub spans_filled: u64,
    /// Spans that a process before this one had left on the disk, and that were right.
    pub spans_from_disk: u64,
    /// Times that what came for a span was wrong.
    pub spans_wrong: u64,
    /// Spans that could not be had: their readers got an error.
    pub spans_failed: u64,
    /// Bytes that came from the source: of layers, and of the windows and heads of their indexes.
    pub bytes_fetched: u64,
    /// Bytes of files that readers got.
    pub bytes_read: u64,
    /// Reads that had to wait, by how long: for each of [`WAIT_BOUNDS_MS`] those that waited no longer than that and
    /// longer than the one before, then all others.
    pub waits: [u64; WAIT_BOUNDS_MS.len() + 1],
    /// All of them together.
    pub waited: Duration,
}

impl Metrics {
    pub(crate) fn fetched(&self, urgency: Urgency) {
        let at = match urgency {
            Urgency::Fill => 0,
            Urgency::Prefetch => 1,
            Urgency::Demand => 2,
        };
        if let Some(count) = self.fetched.get(at) {
            add(count, 1);
        }
    }

    pub(crate) fn found_on_disk(&self) {
        add(&self.from_disk, 1);
    }

    pub(crate) fn was_wrong(&self) {
        add(&self.wrong, 1);
    }

    pub(crate) fn failed(&self) {
        add(&self.failed, 1);
    }

    pub(crate) fn received(&self, bytes: usize) {
        add(&self.bytes_fetched, bytes as u64);
    }

    pub(crate) fn read(&self, bytes: usize) {
        add(&self.bytes_read, bytes as u64);
    }

    pub(crate) fn waited(&self, time: Duration) {
        let at = WAIT_BOUNDS_MS.partition_point(|&bound| Duration::from_millis(bound) < time);
        if let Some(count) = self.waits.get(at) {
            add(count, 1);
        }
        add(&self.waited_micros, u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    pub(super) fn counts(&self) -> ReadCounts {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let [filled, prefetched, on_demand] = self.fetched.each_ref().map(get);
        ReadCounts {
            spans_on_demand: on_demand,
            spans_prefetched: prefetched,
            spans_filled: filled,
            spans_from_disk: get(&self.from_disk),
            spans_wrong: get(&self.wrong),
            spans_failed: get(&self.failed),
            bytes_fetched: get(&self.bytes_fetched),
            bytes_read: get(&self.bytes_read),
            waits: self.waits.each_ref().map(get),
            waited: Duration::from_micros(get(&self.waited_micros)),
        }
    }
}

/// One line for a log.
impl fmt::Display for ReadCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waits: u64 = self.waits.iter().sum();
        write!(
            f,
            "{} bytes read, {} fetched; spans: {} on demand, {} ahead, {} to fill, {} from disk, {} wrong, {} failed; \
             {waits} reads waited {:.3} s",
            self.bytes_read,
            self.bytes_fetched,
            self.spans_on_demand,
            self.spans_prefetched,
            self.spans_filled,
            self.spans_from_disk,
            self.spans_wrong,
            self.spans_failed,
            self.waited.as_secs_f64()
        )
    }
}

fn add(count: &AtomicU64, by: u64) {
    count.fetch_add(by, Ordering::Relaxed);
}
