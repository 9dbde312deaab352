//! Hosts that let connections run into nothing, remembered for a moment.
//!
//! A host that drops packets costs each question the whole time to connect, several times over, and clients wait
//! no longer than 30 s. So only one question in a while tries it; the others fail at once, and what is cached can
//! take their place. The first connection that works ends it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One question in this time tries a silent host.
pub(crate) const TRY_EVERY: Duration = Duration::from_secs(5);
/// A registry, its realm, and the hosts of its storage.
const MAX_HOSTS: usize = 64;

/// Silent hosts, each with the time of the last try.
#[derive(Debug, Default)]
pub(crate) struct Outages(Mutex<HashMap<String, Instant>>);

impl Outages {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a question may try this host now.
    pub(crate) fn may_try(&self, host: &str, now: Instant) -> bool {
        match self.lock().get_mut(host) {
            Some(last) if now.saturating_duration_since(*last) < TRY_EVERY => false,
            Some(last) => {
                *last = now;
                true
            }
            None => true,
        }
    }

    /// No connection came about in the time for it.
    pub(crate) fn was_silent(&self, host: &str, now: Instant) {
        let mut hosts = self.lock();
        if hosts.len() >= MAX_HOSTS && !hosts.contains_key(host) {
            hosts.clear();
        }
        hosts.insert(host.to_owned(), now);
    }

    pub(crate) fn answered(&self, host: &str) {
        self.lock().remove(host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_question_in_a_while_tries_a_silent_host_until_it_answers() {
        let (outages, start) = (Outages::default(), Instant::now());
        let may = |seconds| outages.may_try("a", start + Duration::from_secs(seconds));
        assert!(may(0) && may(0), "nothing is known");
        outages.was_silent("a", start);
        assert!(!may(1) && !may(4));
        assert!(outages.may_try("b", start), "another host");
        assert!(may(5), "the first after a while");
        assert!(!may(5) && !may(9), "the others do not wait for it");
        assert!(may(10));
        outages.answered("a");
        assert!(may(10) && may(10));
    }
}
