//! What is to happen, in the order of virtual time.
//!
//! Most events come a constant time after what caused them: a latency. Each such constant has a lane of its own, which
//! is in order as it is filled; only what is left goes through a heap.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use slab::Slab;

/// Nanoseconds since the run began.
pub(super) type Nanos = u64;

/// Each with its moment and its place among all.
type Lane<E> = VecDeque<(Nanos, u64, E)>;

/// Events with their moments; those of one moment in the order in which they were added.
#[derive(Debug)]
pub(super) struct Queue<E> {
    pub(super) now: Nanos,
    added: u64,
    taken: u64,
    lanes: Vec<(Nanos, Lane<E>)>,
    heap: BinaryHeap<Reverse<(Nanos, u64, usize)>>,
    events: Slab<E>,
}

/// Lanes at most: each is looked at for every event.
const LANES: usize = 8;

#[derive(Clone, Copy)]
enum Source {
    Lane(usize),
    Heap,
}

impl<E> Queue<E> {
    pub(super) fn new() -> Self {
        Self { now: 0, added: 0, taken: 0, lanes: Vec::new(), heap: BinaryHeap::new(), events: Slab::new() }
    }

    /// How many events there have been.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// After a delay that many events have.
    pub(super) fn after(&mut self, delay: Nanos, event: E) {
        let at = self.now + delay;
        let lane = match self.lanes.iter().position(|(of, _)| *of == delay) {
            Some(lane) => lane,
            None if self.lanes.len() < LANES => {
                self.lanes.push((delay, VecDeque::new()));
                self.lanes.len() - 1
            }
            None => return self.at(at, event),
        };
        self.added += 1;
        self.lanes[lane].1.push_back((at, self.added, event));
    }

    /// At any moment; now at the earliest.
    pub(super) fn at(&mut self, at: Nanos, event: E) {
        self.added += 1;
        let slot = self.events.insert(event);
        self.heap.push(Reverse((at.max(self.now), self.added, slot)));
    }

    fn first(&self) -> Option<(Nanos, u64, Source)> {
        let mut first = self.heap.peek().map(|Reverse((at, number, _))| (*at, *number, Source::Heap));
        for (number, (_, lane)) in self.lanes.iter().enumerate() {
            if let Some((at, added, _)) = lane.front()
                && first.is_none_or(|(known, known_added, _)| (*at, *added) < (known, known_added))
            {
                first = Some((*at, *added, Source::Lane(number)));
            }
        }
        first
    }

    /// The next event, unless it is later than this; its moment is now.
    pub(super) fn pop_until(&mut self, latest: Nanos) -> Option<E> {
        let (at, _, source) = self.first().filter(|(at, ..)| *at <= latest)?;
        self.now = at;
        self.taken += 1;
        match source {
            Source::Lane(lane) => self.lanes[lane].1.pop_front().map(|(.., event)| event),
            Source::Heap => self.heap.pop().map(|Reverse((.., slot))| self.events.remove(slot)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_as_they_were_added() {
        let mut queue = Queue::new();
        let mut rng = fastrand::Rng::with_seed(3);
        for number in 0..1000u64 {
            // More delays than lanes.
            match rng.u64(..20) {
                delay if rng.bool() => queue.after(delay, (delay, number)),
                at => queue.at(at, (at, number)),
            }
        }
        let order: Vec<(u64, u64)> = std::iter::from_fn(|| queue.pop_until(Nanos::MAX)).collect();
        assert_eq!(order.len(), 1000);
        assert!(order.is_sorted());
        assert_eq!((queue.now, queue.taken()), (19, 1000));
    }
}
