//! What a run came to.

use super::arguments::Scenario;
use super::node::{Manner, Node};
use super::queue::Nanos;
use super::scenario::{START, seconds};
use super::world::World;
use crate::rate::to_f64;
use crate::report::Mode;

/// A run may take so many times the bound, and this long, before it counts as stuck: what is slow should be told as
/// slow.
const PATIENCE: f64 = 100.0;
const PATIENCE_LEAST: f64 = 120.0;

/// What a scenario came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub mode: Mode,
    /// Rules that were broken, the first few in words.
    pub violations: Vec<String>,
    /// What is worth knowing beside the figures.
    pub notes: Vec<String>,
    /// When the last node had the first chunk of a layer. Its client may wait longer: see [`shoal_swarm::hold`].
    pub first_chunk_last_s: Option<f64>,
    pub events: u64,
    /// Bytes that came twice or in vain, as a share of all that was received.
    pub wasted: f64,
    /// Messages to and from the tracker.
    pub tracker_messages: u64,
}

impl World {
    /// Runs, and tells how it went.
    pub(super) fn conclude(mut self, scenario: Scenario, bound: f64) -> Outcome {
        let limit = START + seconds((bound * PATIENCE).max(PATIENCE_LEAST));
        self.run(limit);
        // Those that were not even told to pull, because an earlier wave is stuck, are among them.
        let lacks =
            |node: &Node| node.alive && node.finished.is_none() && node.manner != Manner::SignsWrongBytes;
        let unfinished: Vec<usize> =
            (0..self.nodes.len()).filter(|number| lacks(&self.nodes[*number])).collect();
        if let Some(first) = unfinished.first() {
            let state = self.nodes[*first].machine.snapshot();
            let tracker = self.tracker.as_ref().map(shoal_swarm::tracker::TrackerMachine::snapshot);
            let nodes = unfinished.len();
            self.meter.violation(format!(
                "{nodes} nodes never finished, node {first} first: {state:?}; tracker: {tracker:?}"
            ));
        }
        self.end_transfers();
        self.end_reads();
        self.add_up();
        let given_up = to_f64(limit - START) / 1e9;
        self.outcome(scenario, bound, unfinished.len(), given_up)
    }

    /// What links carried was kept, or came in vain; what was kept is there.
    fn add_up(&mut self) {
        let meter = &self.meter;
        let kept = meter.from_peers + meter.from_origin;
        let (carried, used) = (meter.carried, kept + meter.wasted);
        let image = &self.image;
        let there = |node: &Node| -> u64 {
            let copies = node.copies.iter().enumerate().filter(|(blob, _)| !image.blobs[*blob].shared);
            copies
                .map(|(blob, copy)| copy.held.iter().map(|chunk| image.len_of(blob, chunk.0)).sum::<u64>())
                .sum()
        };
        let there = self.nodes.iter().map(there).sum::<u64>() + meter.discarded;
        if carried != used {
            self.meter.violation(format!("links carried {carried} bytes, nodes account for {used}"));
        }
        if there != kept {
            self.meter.violation(format!("nodes received {kept} bytes and have {there}"));
        }
    }

    fn outcome(mut self, scenario: Scenario, bound: f64, unfinished: usize, given_up: f64) -> Outcome {
        self.meter.sample(self.meter.last_finish.max(START), self.origin.sent);
        let since = |at: Nanos, began: Nanos| to_f64(at.saturating_sub(began)) / 1e9;
        // Nodes that are told to pull later have a clock of their own.
        let crowd = self.nodes.iter().filter_map(|node| node.began).min().unwrap_or(START);
        let own_clock = matches!(scenario, Scenario::Staggered | Scenario::Churn | Scenario::RollingUpdate);
        let times = |at: fn(&Node) -> Option<Nanos>| -> Vec<f64> {
            let live = self.nodes.iter().filter(|node| node.alive);
            live.filter_map(|node| {
                let began = node.began?;
                Some(since(at(node)?, if own_clock { began } else { crowd }))
            })
            .collect()
        };
        let last = |times: Vec<f64>| times.into_iter().reduce(f64::max);
        let first_chunk_last_s = last(times(|node| node.first_chunk));
        let meter = &self.meter;
        let received = meter.from_peers + meter.from_origin;
        let wasted = to_f64(meter.wasted) / to_f64(received.max(1));
        let mut notes = vec![format!(
            "{:.2} % of the bytes came twice or in vain; {} requests found a node busy; {} reports of chunks out of reach; \
             messages to the scheduler {}, from it {}",
            100.0 * wasted,
            meter.busy,
            meter.starved,
            meter.to_tracker,
            meter.from_tracker
        )];
        if let Some(first) = first_chunk_last_s {
            notes.push(format!("every node had the first chunk of a layer after {first:.2} s"));
        }
        if !meter.all_shunned().is_empty() {
            notes.push(format!("nodes that others shun: {:?}", meter.all_shunned()));
        }
        if self.origin.refused > 0 {
            notes.push(format!("GETs that the origin answered with 429: {}", self.origin.refused));
        }
        if self.flows.cut_short > 0 {
            notes.push(format!("shares of links were cut short {} times", self.flows.cut_short));
        }
        let mode = Mode {
            name: scenario.name(),
            origin_bytes: self.origin.sent,
            image_bytes: self.image.bytes(),
            new_bytes: self.image.new_bytes(),
            origin_gets: self.origin.gets,
            cross_zone_bytes: meter.cross_zone,
            first_byte_last_s: last(times(|node| node.first_byte)),
            traffic: meter.samples.clone(),
            ..Mode::timed(bound, times(|node| node.finished), unfinished, given_up)
        };
        let mut violations = meter.violations.clone();
        if meter.violated > violations.len() {
            violations.push(format!("and {} more", meter.violated - violations.len()));
        }
        let tracker_messages = meter.to_tracker + meter.from_tracker;
        let events = self.queue.taken();
        Outcome { mode, violations, notes, first_chunk_last_s, events, wasted, tracker_messages }
    }
}

/// Most memory that this process had, in bytes; `None` where the kernel does not tell.
pub(super) fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
