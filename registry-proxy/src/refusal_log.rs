//! Says in the log which requests failed and why, without letting clients fill it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use tracing::{info, warn};

use crate::refusal::Failure;

/// Between two lines about one registry and one kind of refusal.
const EVERY: Duration = Duration::from_secs(30);
/// Registries are named by clients: more pairs than this are forgotten, and may be said again.
const MAX_KINDS: usize = 256;
/// Of what a client wrote.
const MAX_SUBJECT: usize = 512;

type Kind = (Option<String>, StatusCode, &'static str);

#[derive(Debug)]
struct Said {
    at: Instant,
    unsaid: u64,
}

/// Remembers what was said when.
#[derive(Debug, Default)]
pub(crate) struct RefusalLog {
    said: Mutex<HashMap<Kind, Said>>,
}

impl RefusalLog {
    /// Says that a request was refused, at most once in a while for each registry and reason.
    pub(crate) fn note(&self, registry: Option<&str>, failure: &Failure, subject: &str) {
        let (status, code) = failure.status_and_code();
        let kind = (registry.map(str::to_owned), status, code);
        let Some(unsaid) = self.due(kind, Instant::now()) else { return };
        let image: String = subject.chars().take(MAX_SUBJECT).collect::<String>().escape_debug().to_string();
        let (status, reason) = (status.as_u16(), failure);
        // Tags that are not there are asked for in the ordinary course of things.
        if status == StatusCode::NOT_FOUND.as_u16() {
            info!(status, image, %reason, more_like_it = unsaid, "request refused");
        } else {
            warn!(status, image, %reason, more_like_it = unsaid, "request refused");
        }
    }

    /// How many of this kind were not said since the last that was; `None`: this one is not to be said either.
    fn due(&self, kind: Kind, now: Instant) -> Option<u64> {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() >= MAX_KINDS && !said.contains_key(&kind) {
            said.clear();
        }
        match said.get_mut(&kind) {
            Some(last) if now.duration_since(last.at) < EVERY => {
                last.unsaid += 1;
                None
            }
            _ => {
                let before = said.insert(kind, Said { at: now, unsaid: 0 });
                Some(before.map_or(0, |last| last.unsaid))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_registry_and_reason_is_said_once_in_a_while() {
        let (log, start) = (RefusalLog::default(), Instant::now());
        let kind = |name: &str| (Some(name.to_owned()), StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE");
        assert_eq!(log.due(kind("a"), start), Some(0));
        assert_eq!(log.due(kind("a"), start), None);
        assert_eq!(log.due(kind("b"), start), Some(0), "another registry");
        assert_eq!(log.due(kind("a"), start + EVERY), Some(1), "and how many were not said");
        for n in 0..2 * MAX_KINDS {
            log.due(kind(&n.to_string()), start);
        }
        assert!(log.said.lock().unwrap().len() <= MAX_KINDS);
    }
}
