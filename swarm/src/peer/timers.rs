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
        self.look();
    }

    /// Takes the first timer, if its moment has come.
    pub(super) fn pop_until(&mut self, now: Time) -> Option<Timer> {
        self.first.filter(|first| *first <= now)?;
        let (_, timer) = self.timers.pop_first()?;
        self.look();
        Some(timer)
    }

    fn look(&mut self) {
        self.first = self.timers.first().map(|(at, _)| *at);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_moment_is_that_of_the_first_timer() {
        let at = |millis| Time::from(Duration::from_millis(millis));
        let mut timers = Timers::default();
        assert_eq!((timers.first(), timers.pop_until(at(100))), (None, None));
        for (millis, key) in [(5, 1), (3, 2), (3, 1), (9, 1)] {
            timers.insert(at(millis), Timer::Flush(key));
        }
        timers.remove(at(3), Timer::Flush(1));
        assert_eq!((timers.first(), timers.pop_until(at(2))), (Some(at(3)), None));
        timers.remove(at(3), Timer::Flush(2));
        assert_eq!((timers.first(), timers.pop_until(at(5))), (Some(at(5)), Some(Timer::Flush(1))));
        assert_eq!((timers.first(), timers.pop_until(at(8))), (Some(at(9)), None));
    }
}
