//! Other nodes: who is linked, who is busy, who lied.

use std::collections::VecDeque;
use std::time::Duration;

use shoal_proto::NodeId;
use shoal_proto::message::PeerInfo;
use slab::Slab;

use super::Key;
use super::key_set::KeySet;
use super::node_map::NodeMap;
use crate::Time;

/// Shortest wait after BUSY: below, asking costs more than waiting.
const BUSY_MIN: Duration = Duration::from_millis(2);
/// Longest wait after BUSY: a slot is free again long before.
const BUSY_MAX: Duration = Duration::from_secs(1);
/// Chunk times to wait after BUSY, at first: whoever has a slot again says so, and asking without a word is for the case
/// that it said so to others. At a sixteenth of this a crowd of 100 at 50 Mbit/s took 1.36 times the bound, not 1.31.
const BUSY_CHUNKS: f64 = 4.0;
/// The same across zones, where a whole zone waits for what is asked for: with four chunk times leases ended before they
/// brought anything, and 1,000 nodes in four zones on slow lines moved 3.03 to 3.16 times the image between them, not 3.
const BUSY_CHUNKS_FAR: f64 = 0.25;
/// Times the wait doubles.
const BUSY_DOUBLES: u16 = 2;
/// A peer that said BUSY so often without sending anything between is not counted on by a node that gets nothing from
/// others either: after some 40 chunk times, or four seconds on slow lines.
const BUSY_TOO_OFTEN: u16 = 4;
/// Samples of which the median is taken.
const SAMPLES: usize = 31;
/// A shorter chunk says more about latency than about pace.
const SAMPLE_MIN: u64 = 64 << 10;
/// A MiB over a link of 10 Gbit/s takes 3 to 7 ms with four to eight at once; one of 1 Gbit/s is never so fast.
const FAST: Duration = Duration::from_millis(8);
/// A MiB over a link of 800 Mbit/s takes 10.5 ms alone, over one of 1 Gbit/s 8.4 ms. Crowds of 60 with 2 ms between them took
/// 1.28 times the bound at 400 Mbit/s with 30 ms here and 1.22 with 11 ms, 1.36 and 1.23 at 600, 1.44 and 1.39 at 800; with
/// 6 ms, and 100 us between them, 200 took 1.40 and not 1.31 at 1 Gbit/s.
const SLOW: Duration = Duration::from_millis(11);
/// Leases that share the origin's line, as far as a guess may count on it.
const SHARED: f64 = 2.0;
/// What a chunk is expected to take before anything was measured: a slow link, so that nothing is asked twice early.
const EXPECTED: Duration = Duration::from_millis(700);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    Down,
    Connecting,
    Up,
}

/// What this node knows of another. Those of all neighbours are looked at for each chunk that is asked for, so each lies in
/// one line of the processor's cache.
#[derive(Clone, Debug)]
#[repr(align(64))]
pub(super) struct Link {
    /// How to reach it; not known of one that came by itself.
    info: Option<Box<PeerInfo>>,
    /// Whether it stands in this node's zone, once that is known.
    near: Option<bool>,
    pub(super) state: LinkState,
    /// Chunks asked of it.
    pub(super) requests: u32,
    pub(super) busy_until: Time,
    busy_times: u16,
    /// When it said so first since it last sent something.
    busy_since: Time,
    /// Requests in a row that took too long.
    pub(super) slow: u32,
    /// Wrong chunks that it sent.
    pub(super) strikes: u32,
    /// Attempts to connect that failed in a row.
    pub(super) failures: u16,
    /// Swarms that it is a neighbour in.
    pub(super) swarms: u32,
    /// Swarms that would have asked it for more, had it not been asked for as much as it may be.
    waiting: Option<Box<KeySet>>,
    /// Seconds for a byte, smoothed; 0 before anything was measured.
    pace: f64,
}

// As the slab keeps it.
const _: () = assert!(size_of::<Option<Link>>() == 64);

impl Default for Link {
    fn default() -> Self {
        Self {
            info: None,
            near: None,
            state: LinkState::Down,
            requests: 0,
            busy_until: Time::ZERO,
            busy_times: 0,
            busy_since: Time::ZERO,
            slow: 0,
            strikes: 0,
            failures: 0,
            swarms: 0,
            waiting: None,
            pace: 0.0,
        }
    }
}

impl Link {
    pub(super) fn info(&self) -> Option<&PeerInfo> {
        self.info.as_deref()
    }

    /// Notes how it is reached; `near` is whether it stands in this node's zone.
    pub(super) fn set_info(&mut self, info: PeerInfo, near: bool) {
        self.info = Some(Box::new(info));
        self.near = Some(near);
    }

    /// Notes a swarm that would have asked it for more, had it not been asked for as much as it may be.
    pub(super) fn add_waiting(&mut self, key: Key) {
        self.waiting.get_or_insert_default().insert(key);
    }

    /// The swarms that waited; it may be asked for more now.
    pub(super) fn take_waiting(&mut self) -> impl Iterator<Item = Key> + use<> {
        self.waiting.take().into_iter().flat_map(|waiting| *waiting)
    }

    /// Whether it stands in this node's zone. `None` of one that came by itself.
    pub(super) fn near(&self) -> Option<bool> {
        self.near
    }

    /// Whether it may be counted on to send what it has; where it is only busy, for so long.
    pub(super) fn delivers(&self, now: Time, patience: Duration) -> bool {
        self.is_up() && (self.busy_times < BUSY_TOO_OFTEN || now.since(self.busy_since) < patience)
    }

    pub(super) fn is_up(&self) -> bool {
        self.state == LinkState::Up
    }

    /// Its slots are taken: leaves it alone for a while that doubles, with jitter.
    pub(super) fn busy(&mut self, now: Time, chunk_time: Duration, jitter: f64) {
        let chunks = if self.near == Some(false) { BUSY_CHUNKS_FAR } else { BUSY_CHUNKS };
        let base = chunk_time.mul_f64(chunks).clamp(BUSY_MIN, BUSY_MAX);
        let wait = base * 2u32.pow(self.busy_times.min(BUSY_DOUBLES).into());
        if self.busy_times == 0 {
            self.busy_since = now;
        }
        self.busy_times = self.busy_times.saturating_add(1);
        self.busy_until = now + wait.min(BUSY_MAX).mul_f64(0.5 + jitter);
    }

    pub(super) fn delivered(&mut self, took: Duration, len: u64) {
        self.busy_times = 0;
        self.slow = 0;
        self.observe(took, len);
    }

    /// Seconds for a byte from this node, smoothed; 0 before anything was measured.
    pub(super) fn pace(&self) -> f64 {
        self.pace
    }

    pub(super) fn observe(&mut self, took: Duration, len: u64) {
        if len >= SAMPLE_MIN {
            let sample = took.as_secs_f64() / as_f64(len);
            self.pace = if self.pace > 0.0 { self.pace + 0.25 * (sample - self.pace) } else { sample };
        }
    }

    /// Which class of speed, 0 the fastest: classes differ by a factor of four, so that equals stay equal and
    /// chance decides among them.
    pub(super) fn pace_class(&self, median: f64) -> i32 {
        if median <= 0.0 || self.pace <= median * 2.0 {
            return 0;
        }
        if self.pace <= median * 8.0 { 1 } else { 2 }
    }
}

/// A link's place among all; whoever is a neighbour or is asked for something has one, and keeps it as long.
pub(super) type LinkKey = usize;

/// All links. A node that looks for somebody to ask goes through those of all neighbours, for each chunk: by their
/// places, which costs no search by name.
#[derive(Debug, Default)]
pub(super) struct Links {
    keys: NodeMap<LinkKey>,
    links: Slab<Link>,
}

impl Links {
    pub(super) fn at(&self, key: LinkKey) -> Option<&Link> {
        self.links.get(key)
    }

    pub(super) fn at_mut(&mut self, key: LinkKey) -> Option<&mut Link> {
        self.links.get_mut(key)
    }

    pub(super) fn get(&self, node: &NodeId) -> Option<&Link> {
        self.links.get(*self.keys.get(node)?)
    }

    pub(super) fn get_mut(&mut self, node: &NodeId) -> Option<&mut Link> {
        self.links.get_mut(*self.keys.get(node)?)
    }

    /// The link of a node; a new one if there is none.
    #[allow(clippy::indexing_slicing, reason = "each key is that of a link: both come and go together")]
    pub(super) fn get_or_add(&mut self, node: NodeId) -> &mut Link {
        let key = self.key_or_add(node);
        &mut self.links[key]
    }

    pub(super) fn key_or_add(&mut self, node: NodeId) -> LinkKey {
        match self.keys.get(&node) {
            Some(key) => *key,
            None => {
                let key = self.links.insert(Link::default());
                self.keys.insert(node, key);
                key
            }
        }
    }

    pub(super) fn remove(&mut self, node: &NodeId) -> Option<Link> {
        self.links.try_remove(self.keys.remove(node)?)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().map(|(_, link)| link)
    }
}

/// How long chunks take.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    samples: VecDeque<Sample>,
    median: f64,
    /// The same, had each chunk had the line for itself.
    alone: f64,
}

/// Seconds for a byte of one chunk, as they were and as they would have been alone.
#[derive(Clone, Copy, Debug)]
struct Sample {
    pace: f64,
    alone: f64,
}

/// Of [`SAMPLES`] at most.
fn median(samples: impl Iterator<Item = f64>) -> f64 {
    let mut values = [0.0; SAMPLES];
    let mut count = 0;
    for (place, sample) in values.iter_mut().zip(samples) {
        *place = sample;
        count += 1;
    }
    let values = values.get_mut(..count).unwrap_or_default();
    if values.is_empty() {
        return 0.0;
    }
    *values.select_nth_unstable_by(count / 2, f64::total_cmp).1
}

// Lengths of chunks are below 2^53.
#[allow(clippy::cast_precision_loss)]
pub(super) fn as_f64(len: u64) -> f64 {
    len as f64
}

impl Pace {
    /// A chunk that shared this node's line with others: `at_once` in all.
    pub(super) fn add(&mut self, took: Duration, len: u64, at_once: usize) {
        if len < SAMPLE_MIN {
            return;
        }
        let pace = took.as_secs_f64() / as_f64(len);
        self.samples.push_back(Sample { pace, alone: pace / as_f64(at_once.max(1) as u64) });
        if self.samples.len() > SAMPLES {
            self.samples.pop_front();
        }
        self.median = median(self.samples.iter().map(|sample| sample.pace));
        self.alone = median(self.samples.iter().map(|sample| sample.alone));
    }

    /// Median seconds for a byte; 0 before anything was measured.
    pub(super) fn median(&self) -> f64 {
        self.median
    }

    /// Whether a MiB takes so little that what comes between chunks counts.
    pub(super) fn is_fast(&self) -> bool {
        self.median > 0.0 && self.median * as_f64(1 << 20) <= FAST.as_secs_f64()
    }

    /// Whether a MiB takes long even alone; a guess from the origin's `line`, seconds for a byte, before anything was
    /// measured. Alone, for how many share the line follows from this: a line that looked slow only because of that would
    /// stay so.
    pub(super) fn is_slow(&self, line: f64) -> bool {
        let alone = if self.samples.is_empty() { line / SHARED } else { self.alone };
        alone * as_f64(1 << 20) > SLOW.as_secs_f64()
    }

    /// What a chunk of this length takes, by the median.
    pub(super) fn expected(&self, len: u64) -> Duration {
        self.measured(len).unwrap_or(EXPECTED)
    }

    /// The same where others are sent chunks of this length: small ones are soon gone, whatever was measured.
    pub(super) fn expected_of_others(&self, len: u64) -> Duration {
        let share = as_f64(len) / as_f64(1 << 20);
        self.measured(len).unwrap_or_else(|| EXPECTED.mul_f64(share.min(1.0)))
    }

    /// The same, once something was measured.
    pub(super) fn measured(&self, len: u64) -> Option<Duration> {
        let time = Duration::from_secs_f64((self.median * as_f64(len)).clamp(0.0, 3600.0));
        (!self.samples.is_empty()).then_some(time)
    }
}
