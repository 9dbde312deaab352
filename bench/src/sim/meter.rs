//! What a run is measured by.

use std::collections::BTreeSet;

use super::node::Number;
use super::queue::Nanos;
use crate::rate::to_f64;
use crate::report::Sample;

/// Violations that are told; more of the same say nothing new.
const TOLD: usize = 10;
/// Samples that are kept; then every second one is dropped.
const SAMPLES: usize = 400;

/// Counts of a run. Bytes.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Chunks that were kept, by source.
    pub(super) from_peers: u64,
    pub(super) from_origin: u64,
    /// What came twice, or in vain.
    pub(super) wasted: u64,
    /// What was kept, and thrown away when its round ended.
    pub(super) discarded: u64,
    /// All that links carried.
    pub(super) carried: u64,
    pub(super) cross_zone: u64,
    pub(super) busy: u64,
    pub(super) starved: u64,
    pub(super) to_tracker: u64,
    pub(super) from_tracker: u64,
    pub(super) last_finish: Nanos,
    pub(super) start: Nanos,
    /// Time between samples.
    pub(super) every: Option<Nanos>,
    pub(super) samples: Vec<Sample>,
    pub(super) violations: Vec<String>,
    pub(super) violated: usize,
    shunned: BTreeSet<Number>,
}

impl Meter {
    pub(super) fn violation(&mut self, what: String) {
        self.violated += 1;
        if self.violations.len() < TOLD {
            self.violations.push(what);
        }
    }

    pub(super) fn finished(&mut self, at: Nanos) {
        self.last_finish = self.last_finish.max(at);
    }

    pub(super) fn shunned(&mut self, node: Number) {
        self.shunned.insert(node);
    }

    /// Nodes that somebody does not deal with any more.
    pub(super) fn all_shunned(&self) -> &BTreeSet<Number> {
        &self.shunned
    }

    pub(super) fn sample(&mut self, now: Nanos, origin: u64) {
        self.samples.push(Sample {
            at_s: to_f64(now.saturating_sub(self.start)) / 1e9,
            origin_bytes: origin,
            peer_bytes: self.from_peers,
            cross_zone_bytes: self.cross_zone,
        });
        if self.samples.len() >= SAMPLES {
            let mut keep = false;
            self.samples.retain(|_| {
                keep = !keep;
                keep
            });
            self.every = self.every.map(|every| every * 2);
        }
    }
}
