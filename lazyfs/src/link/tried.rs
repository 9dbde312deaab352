//! Who asks for the same bytes again soon did not like what came the first time.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use shoal_proto::Digest;

/// A range that is asked for again later than this was given up meanwhile, and fetched anew.
const SOON: Duration = Duration::from_secs(60);
/// Ranges that are remembered: those of some seconds.
const MOST: usize = 4096;

/// A layer, or the file of its index, and the range.
type Key = (Digest, Range<u64>);

/// Remembers for a while from whom which range came.
#[derive(Debug, Default)]
pub(super) struct Tried(HashMap<Key, (Instant, Vec<u64>)>);

impl Tried {
    /// Sources whose bytes for this range came lately, and were not good.
    pub(super) fn of(&self, key: &Key) -> Vec<u64> {
        let tried = self.0.get(key).filter(|(at, _)| at.elapsed() < SOON);
        tried.map(|(_, sources)| sources.clone()).unwrap_or_default()
    }

    pub(super) fn note(&mut self, key: Key, source: u64) {
        if self.0.len() >= MOST {
            self.0.retain(|_, (at, _)| at.elapsed() < SOON);
            if self.0.len() >= MOST {
                self.0.clear();
            }
        }
        let (at, sources) = self.0.entry(key).or_insert_with(|| (Instant::now(), Vec::new()));
        if at.elapsed() >= SOON {
            sources.clear();
        }
        *at = Instant::now();
        if !sources.contains(&source) {
            sources.push(source);
        }
    }
}
