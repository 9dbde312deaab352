//! Bytes that flow over links, each flow at its max-min fair rate.
//!
//! Every link has a *level*: what a flow gets there that nothing else holds back. A flow's rate is the least level on
//! its way. When a flow begins or ends only its own links are leveled anew, and from there those links whose
//! load has come out of bounds: above capacity always, below it only where more than [`SLACK`] would be left
//! unused. So a change ripples as far as it matters and no further; a run of 10,000 nodes has tens of
//! thousands of flows, and computing all rates at each event would take hours.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::queue::Nanos;
use crate::rate::to_f64;

/// A link's number.
pub(super) type LinkId = u32;
/// A flow's number, used again after its end.
pub(super) type FlowId = u32;

/// Links on the longest way: NIC, rack, zone, and the same down again.
pub(super) const HOPS: usize = 6;

/// The links that a flow passes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Path {
    links: [LinkId; HOPS],
    len: u8,
}

impl Path {
    pub(super) fn push(&mut self, link: LinkId) {
        self.links[usize::from(self.len)] = link;
        self.len += 1;
    }

    fn links(&self) -> &[LinkId] {
        &self.links[..usize::from(self.len)]
    }
}

/// The share of a saturated link that may stay unused after a change elsewhere. A smaller one costs time and changes
/// little: with 1 % a crowd of 1,000 took 0.2 % less virtual time, and twice the real one.
const SLACK: f64 = 0.02;
/// The share by which a link may be overbooked: rounding, and what is not worth a ripple.
const EXCESS: f64 = 0.002;
/// Links leveled for one change, at most; ripples end long before. Counted, to be seen should it not be so.
const RIPPLE: usize = 4096;

const SECOND: f64 = 1e9;

/// In one line of the processor's cache, as is what changes of a flow: with thousands of nodes most of these lines have to
/// come from memory.
#[derive(Debug)]
#[repr(align(64))]
struct Link {
    capacity: f64,
    load: f64,
    /// Whether flows are held back here.
    saturated: bool,
    /// Each with the position of this link on its path.
    flows: Vec<(FlowId, u8)>,
    dirty: bool,
}

/// In this order, so that what is needed only at its beginning and end lies in a line of its own.
#[derive(Debug)]
#[repr(C, align(64))]
struct Flow {
    path: Path,
    left: f64,
    rate: f64,
    /// When `left` was true.
    at: Nanos,
    /// When the flow is looked at next, not later than its end; `Nanos::MAX` for a flow without an entry.
    wake: Nanos,
    /// Where it stands in the list of each link of its path.
    places: [u32; HOPS],
    bytes: f64,
}

const _: () = assert!(size_of::<Link>() == 64 && std::mem::offset_of!(Flow, places) == 64);

/// All links and flows.
#[derive(Debug, Default)]
pub(super) struct Flows {
    now: Nanos,
    links: Vec<Link>,
    /// What a flow may have on each link as far as is known: the link's level, and never more than the whole link.
    limits: Vec<f64>,
    flows: Vec<Flow>,
    free: Vec<FlowId>,
    dirty: VecDeque<LinkId>,
    ends: Ends,
    /// The first of them, unless something changed since it was looked for.
    next_end: Option<Nanos>,
    /// What the links' flows may have elsewhere, while one link is leveled.
    elsewhere: Vec<(f64, FlowId)>,
    pub(super) leveled: u64,
    pub(super) cut_short: u64,
}

impl Flows {
    /// A link of so many bytes per second.
    pub(super) fn add_link(&mut self, capacity: f64) -> LinkId {
        self.links.push(Link { capacity, load: 0.0, saturated: false, flows: Vec::new(), dirty: false });
        self.limits.push(capacity);
        LinkId::try_from(self.links.len() - 1).unwrap_or(LinkId::MAX)
    }

    /// Moves on to this moment.
    pub(super) fn advance(&mut self, now: Nanos) {
        self.now = now;
    }

    pub(super) fn start(&mut self, path: Path, bytes: u64) -> FlowId {
        let bytes = to_f64(bytes);
        let flow =
            Flow { path, left: bytes, rate: 0.0, at: self.now, wake: Nanos::MAX, places: [0; HOPS], bytes };
        let id = match self.free.pop() {
            Some(id) => {
                self.flows[id as usize] = flow;
                id
            }
            None => {
                self.flows.push(flow);
                FlowId::try_from(self.flows.len() - 1).unwrap_or(FlowId::MAX)
            }
        };
        for (hop, link) in (0u8..).zip(path.links()) {
            let flows = &mut self.links[*link as usize].flows;
            let place = u32::try_from(flows.len()).unwrap_or(u32::MAX);
            self.flows[id as usize].places[usize::from(hop)] = place;
            flows.push((id, hop));
            self.mark(*link);
        }
        id
    }

    /// Ends a flow; says how many bytes it has carried.
    pub(super) fn stop(&mut self, id: FlowId) -> u64 {
        let now = self.now;
        let flow = &mut self.flows[id as usize];
        flow.pass_time(now);
        flow.wake = Nanos::MAX;
        let (path, rate, places) = (flow.path, flow.rate, flow.places);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the flow's bytes")]
        let carried = (flow.bytes - flow.left).round() as u64;
        for (hop, link) in path.links().iter().enumerate() {
            let link_state = &mut self.links[*link as usize];
            let place = places[hop] as usize;
            link_state.load -= rate;
            link_state.flows.swap_remove(place);
            if let Some((moved, moved_hop)) = link_state.flows.get(place) {
                self.flows[*moved as usize].places[usize::from(*moved_hop)] = places[hop];
            }
            self.mark(*link);
        }
        self.free.push(id);
        carried
    }

    fn mark(&mut self, link: LinkId) {
        if !std::mem::replace(&mut self.links[link as usize].dirty, true) {
            self.dirty.push_back(link);
        }
    }

    /// When the next flow ends.
    pub(super) fn next_end(&mut self) -> Option<Nanos> {
        if self.dirty.is_empty() && self.next_end.is_some() {
            return self.next_end;
        }
        self.level();
        self.next_end = self.first_end();
        self.next_end
    }

    fn first_end(&mut self) -> Option<Nanos> {
        loop {
            let (at, id) = self.ends.first()?;
            let flow = &mut self.flows[id as usize];
            if flow.wake != at {
                self.ends.pop();
                continue;
            }
            let end = flow.end();
            if end <= at {
                return Some(at);
            }
            // It became slower since.
            self.ends.pop();
            flow.wake = end;
            if end < Nanos::MAX {
                self.ends.push(end, id);
            }
        }
    }

    /// The flow that ends at the moment that `next_end` told. It is to be stopped.
    pub(super) fn take_end(&mut self) -> Option<FlowId> {
        let (at, id) = self.ends.pop()?;
        self.next_end = None;
        self.now = self.now.max(at);
        let flow = &mut self.flows[id as usize];
        flow.wake = Nanos::MAX;
        flow.left = 0.0;
        flow.at = self.now;
        Some(id)
    }

    /// Levels what changed.
    fn level(&mut self) {
        let mut rounds = 0;
        while let Some(link) = self.dirty.pop_front() {
            self.links[link as usize].dirty = false;
            if rounds < RIPPLE {
                self.level_link(link);
            }
            rounds += 1;
        }
        self.leveled += rounds as u64;
        self.cut_short += u64::from(rounds > RIPPLE);
    }

    fn level_link(&mut self, id: LinkId) {
        let mut elsewhere = std::mem::take(&mut self.elsewhere);
        elsewhere.clear();
        let link = &self.links[id as usize];
        let mut wanted = 0.0;
        for (flow, _) in &link.flows {
            let others = self.flows[*flow as usize].path.links().iter().filter(|other| **other != id);
            let limit = others.map(|other| self.limits[*other as usize]).fold(f64::INFINITY, f64::min);
            wanted += limit;
            elsewhere.push((limit, *flow));
        }
        let capacity = link.capacity;
        let level = if wanted <= capacity { f64::INFINITY } else { fair(&mut elsewhere, capacity) };
        self.links[id as usize].saturated = level.is_finite();
        self.limits[id as usize] = level.min(capacity);
        for (limit, flow) in &elsewhere {
            self.set_rate(*flow, limit.min(level), id);
        }
        self.elsewhere = elsewhere;
    }

    /// Sets a flow's rate; marks its links, but for the one that is being leveled, where that matters.
    fn set_rate(&mut self, id: FlowId, rate: f64, leveled: LinkId) {
        let now = self.now;
        let flow = &mut self.flows[id as usize];
        let change = rate - flow.rate;
        if change == 0.0 {
            return;
        }
        flow.pass_time(now);
        flow.rate = rate;
        let end = flow.end();
        // Later ends are found out when the flow is looked at.
        if end < flow.wake {
            flow.wake = end;
            self.ends.push(end, id);
        }
        let path = flow.path;
        for other in path.links() {
            let link = &mut self.links[*other as usize];
            link.load += change;
            let over = link.load > link.capacity * (1.0 + EXCESS);
            let under = link.saturated && link.load < link.capacity * (1.0 - SLACK);
            if *other != leveled && (over || under) {
                self.mark(*other);
            }
        }
    }
}

/// When flows end: only the next of them are kept in order, few enough for the caches.
#[derive(Debug, Default)]
struct Ends {
    near: BinaryHeap<Reverse<(Nanos, FlowId)>>,
    /// None of them before `horizon`, in any order.
    far: Vec<(Nanos, FlowId)>,
    horizon: Nanos,
}

/// Of the far ends the nearest sixteenth comes near at once.
const NEAR: usize = 16;

impl Ends {
    fn push(&mut self, at: Nanos, flow: FlowId) {
        if at < self.horizon {
            self.near.push(Reverse((at, flow)));
        } else {
            self.far.push((at, flow));
        }
    }

    fn first(&mut self) -> Option<(Nanos, FlowId)> {
        if self.near.is_empty() && !self.far.is_empty() {
            let nth = self.far.len() / NEAR;
            self.horizon = self.far.select_nth_unstable(nth).1.0 + 1;
            let nearer = self.far.extract_if(.., |(at, _)| *at < self.horizon);
            self.near.extend(nearer.map(Reverse));
        }
        self.near.peek().map(|Reverse(end)| *end)
    }

    fn pop(&mut self) -> Option<(Nanos, FlowId)> {
        self.first()?;
        self.near.pop().map(|Reverse(end)| end)
    }
}

impl Flow {
    fn pass_time(&mut self, now: Nanos) {
        let passed = to_f64(now.saturating_sub(self.at));
        self.left = (self.left - self.rate * passed / SECOND).max(0.0);
        self.at = now;
    }

    fn end(&self) -> Nanos {
        if self.rate <= 0.0 {
            return Nanos::MAX;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let wait = (self.left / self.rate * SECOND).ceil() as Nanos;
        self.at.saturating_add(wait)
    }
}

/// The level at which flows with these limits fill the capacity, which is less than they want together.
fn fair(limits: &mut [(f64, FlowId)], capacity: f64) -> f64 {
    limits.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let mut rest = capacity;
    let mut flows = limits.len();
    for (limit, _) in limits.iter() {
        let share = rest / to_f64(flows as u64);
        if *limit >= share {
            return share;
        }
        rest -= limit;
        flows -= 1;
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_possible_truncation)]
    use super::*;

    fn path(links: &[LinkId]) -> Path {
        let mut path = Path::default();
        links.iter().for_each(|link| path.push(*link));
        path
    }

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() <= want * 0.03, "{got}, not {want}");
    }

    #[test]
    fn what_one_flow_cannot_use_goes_to_the_others() {
        let mut flows = Flows::default();
        let (wide, narrow, own) = (flows.add_link(90.0), flows.add_link(10.0), flows.add_link(100.0));
        let held_back = flows.start(path(&[wide, narrow]), 1000);
        let free: Vec<FlowId> = (0..2).map(|_| flows.start(path(&[wide, own]), 1000)).collect();
        assert_eq!(flows.next_end(), Some(25 * SECOND as u64));
        close(flows.flows[held_back as usize].rate, 10.0);
        free.iter().for_each(|flow| close(flows.flows[*flow as usize].rate, 40.0));
    }

    #[test]
    fn a_flow_that_begins_later_may_end_first() {
        let mut flows = Flows::default();
        let (one, other) = (flows.add_link(100.0), flows.add_link(100.0));
        flows.start(path(&[one]), 300);
        assert_eq!(flows.next_end(), Some(3 * SECOND as u64));
        let short = flows.start(path(&[other]), 100);
        assert_eq!((flows.next_end(), flows.take_end()), (Some(SECOND as u64), Some(short)));
    }

    #[test]
    fn ends_come_in_order() {
        let mut rng = fastrand::Rng::with_seed(5);
        let (mut ends, mut reference) = (Ends::default(), BinaryHeap::new());
        for flow in 0..20_000 {
            // Many at the same moment, and some before what is near already.
            if rng.u8(..5) < 3 {
                let at = rng.u64(..500);
                ends.push(at, flow);
                reference.push(Reverse((at, flow)));
            } else {
                assert_eq!(ends.first(), reference.peek().map(|Reverse(end)| *end));
                assert_eq!(ends.pop(), reference.pop().map(|Reverse(end)| end));
            }
        }
    }

    #[test]
    fn a_flow_speeds_up_when_others_end() {
        let mut flows = Flows::default();
        let link = flows.add_link(100.0);
        flows.start(path(&[link]), 100);
        let long = flows.start(path(&[link]), 300);
        let first = flows.next_end().unwrap();
        assert_eq!(first, 2 * SECOND as u64);
        flows.advance(first);
        let ended = flows.take_end().unwrap();
        assert_eq!(flows.stop(ended), 100);
        // Two seconds at half the rate, then two at the whole.
        let second = flows.next_end().unwrap();
        assert_eq!(second, 4 * SECOND as u64);
        assert_eq!(flows.take_end(), Some(long));
    }

    /// Max-min rates by filling all links at once, the slow way.
    fn reference(capacities: &[f64], paths: &[Vec<LinkId>]) -> Vec<f64> {
        let mut rates = vec![None; paths.len()];
        let mut left = capacities.to_vec();
        while rates.iter().any(Option::is_none) {
            let open = |link: usize, rates: &[Option<f64>]| {
                let on = |path: &Vec<LinkId>| path.contains(&(link as LinkId));
                paths.iter().zip(rates).filter(|(path, rate)| rate.is_none() && on(path)).count()
            };
            let shares = (0..capacities.len()).filter(|link| open(*link, &rates) > 0);
            let (share, tight) = shares
                .map(|link| (left[link] / open(link, &rates) as f64, link))
                .min_by(|a, b| a.0.total_cmp(&b.0))
                .unwrap();
            for (path, rate) in paths.iter().zip(&mut rates) {
                if rate.is_none() && path.contains(&(tight as LinkId)) {
                    *rate = Some(share);
                    path.iter().for_each(|link| left[*link as usize] -= share);
                }
            }
        }
        rates.into_iter().map(Option::unwrap).collect()
    }

    #[test]
    fn rates_stay_near_max_min_through_many_changes_and_no_link_is_overbooked() {
        for seed in 0..20 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut flows = Flows::default();
            let capacities: Vec<f64> = (0..40).map(|_| 50.0 + 100.0 * rng.f64()).collect();
            capacities.iter().for_each(|capacity| {
                flows.add_link(*capacity);
            });
            let mut live: Vec<(FlowId, Vec<LinkId>)> = Vec::new();
            for _ in 0..400 {
                if live.len() > 60 || (live.len() > 20 && rng.bool()) {
                    let (flow, _) = live.swap_remove(rng.usize(..live.len()));
                    flows.stop(flow);
                } else {
                    let links = vec![rng.u32(..20), 20 + rng.u32(..20)];
                    live.push((flows.start(path(&links), 1 << 40), links));
                }
                flows.next_end();
                for (link, capacity) in flows.links.iter().zip(&capacities) {
                    let load: f64 = link.flows.iter().map(|(flow, _)| flows.flows[*flow as usize].rate).sum();
                    assert!(load <= capacity * 1.003, "seed {seed}: {load} of {capacity}");
                    assert!((load - link.load).abs() < 1e-6);
                }
            }
            let paths: Vec<Vec<LinkId>> = live.iter().map(|(_, links)| links.clone()).collect();
            let want = reference(&capacities, &paths);
            let got: Vec<f64> = live.iter().map(|(flow, _)| flows.flows[*flow as usize].rate).collect();
            let (sum_want, sum_got): (f64, f64) = (want.iter().sum(), got.iter().sum());
            assert!((sum_got - sum_want).abs() < sum_want * 0.03, "seed {seed}: {sum_got}, not {sum_want}");
            for (got, want) in got.iter().zip(&want) {
                assert!((got - want).abs() < want * 0.25, "seed {seed}: {got}, not {want}");
            }
            assert_eq!(flows.cut_short, 0);
        }
    }
}
