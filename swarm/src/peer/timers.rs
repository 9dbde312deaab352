//! When to look at what.

use std::collections::BTreeSet;

use shoal_proto::{LeaseToken, NodeId};

use super::Key;
use crate::Time;

/// What a timer is for. One that is not needed any more fires for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Flush(Key),
    Retry(Key),
    Starving(Key),
    RoundWait(Key),
    LeaseEnds(Key, LeaseToken),
    Connect(NodeId),
    IdleLink(NodeId),
    Report,
    ZonesOpen,
}

/// Timers with their moments. The first moment is asked for with every event, and so it is kept apart.
#[derive(Debug, Default)]
pub(super) struct Timers {
    timers: BTreeSet<(Time, Timer)>,
    first: Option<Time>,
}

impl Timers {
    pub(super) fn first(&self) -> Option<Time> {
        self.first
    }

    pub(super) fn insert(&mut self, at: Time, timer: Timer) {
        self.timers.insert((at, timer));
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
    }

    pub(super) fn remove(&mut self, at: Time, timer: Timer) {
        self.timers.remove(&(at, timer));
        self.note_first();
    }

    /// Takes the first timer, if its moment has come.
    pub(super) fn pop_until(&mut self, now: Time) -> Option<Timer> {
        self.first.filter(|first| *first <= now)?;
        let (_, timer) = self.timers.pop_first()?;
        self.note_first();
        Some(timer)
    }

    fn note_first(&mut self) {
        self.first = self.timers.first().map(|(at, _)| *at);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn they_come_in_order_and_the_first_moment_is_that_of_the_first() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut timers, mut reference) = (Timers::default(), BTreeSet::new());
        for _ in 0..1000 {
            let (at, timer) = (Time::from(Duration::from_millis(rng.u64(..9))), Timer::Flush(rng.u32(..3)));
            match rng.u8(..3) {
                0 => {
                    timers.insert(at, timer);
                    reference.insert((at, timer));
                }
                1 => {
                    timers.remove(at, timer);
                    reference.remove(&(at, timer));
                }
                _ => {
                    let due = reference.first().copied().filter(|(first, _)| *first <= at);
                    reference.retain(|timer| due != Some(*timer));
                    assert_eq!(timers.pop_until(at), due.map(|(_, timer)| timer));
                }
            }
            assert_eq!(timers.first(), reference.first().map(|(at, _)| *at));
        }
    }
}
