//! What the proxy counts. The daemon exports it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use http::StatusCode;

use crate::Source;

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteLabel {
    Ping,
    Manifest,
    Blob,
    Tags,
    Referrers,
    /// Not a route of this mirror, pushes included.
    Other,
}

impl RouteLabel {
    pub const ALL: [Self; 6] =
        [Self::Ping, Self::Manifest, Self::Blob, Self::Tags, Self::Referrers, Self::Other];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Other => "other",
        }
    }
}

const STATUS_CLASSES: [&str; 4] = ["2xx", "3xx", "4xx", "5xx"];

/// Counters of one proxy, since it was made.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: [[AtomicU64; STATUS_CLASSES.len()]; RouteLabel::ALL.len()],
    sent_bytes: [AtomicU64; Source::ALL.len()],
    cut_bodies: AtomicU64,
    in_flight: AtomicUsize,
    connections: AtomicUsize,
}

/// The counters at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Answered requests by route and status class (`"2xx"`), without those that never occurred.
    pub requests: Vec<(RouteLabel, &'static str, u64)>,
    /// Bytes of manifests and blobs handed to connections, by where they came from.
    pub sent_bytes: Vec<(Source, u64)>,
    /// Responses that broke off because the bytes could not be had.
    pub cut_bodies: u64,
    /// Requests being answered, bodies included.
    pub in_flight: usize,
    pub connections: usize,
}

impl Metrics {
    pub fn snapshot(&self) -> Snapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let rows = RouteLabel::ALL.into_iter().zip(&self.requests);
        let cells = rows.flat_map(|(route, row)| {
            STATUS_CLASSES.into_iter().zip(row).map(move |(class, count)| (route, class, load(count)))
        });
        Snapshot {
            requests: cells.filter(|(_, _, count)| *count > 0).collect(),
            sent_bytes: Source::ALL.into_iter().zip(self.sent_bytes.iter().map(load)).collect(),
            cut_bodies: load(&self.cut_bodies),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            connections: self.connections.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn answered(&self, route: RouteLabel, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).saturating_sub(2);
        if let Some(counter) = self.requests.get(route as usize).and_then(|row| row.get(class)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A connection's place among the open ones, and how many requests it has in flight itself.
#[derive(Debug)]
pub(crate) struct Open {
    metrics: Arc<Metrics>,
    in_flight: AtomicUsize,
    begun: AtomicU64,
}

impl Open {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        metrics.connections.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { metrics, in_flight: AtomicUsize::new(0), begun: AtomicU64::new(0) })
    }

    /// Requests in flight now, and requests ever begun.
    pub(crate) fn activity(&self) -> (usize, u64) {
        (self.in_flight.load(Ordering::Relaxed), self.begun.load(Ordering::Relaxed))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request's place among those in flight.
#[derive(Debug)]
pub(crate) struct InFlight {
    connection: Arc<Open>,
    /// Requests in flight on all connections, this one included.
    pub(crate) now: usize,
}

impl InFlight {
    pub(crate) fn new(connection: Arc<Open>) -> Self {
        connection.in_flight.fetch_add(1, Ordering::Relaxed);
        connection.begun.fetch_add(1, Ordering::Relaxed);
        let now = connection.metrics.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        Self { connection, now }
    }

    pub(crate) fn sent(&self, source: Source, bytes: u64) {
        if let Some(counter) = self.connection.metrics.sent_bytes.get(source as usize) {
            counter.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    pub(crate) fn cut(&self) {
        self.connection.metrics.cut_bodies.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.connection.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.connection.metrics.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
