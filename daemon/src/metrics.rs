//! Every metric of the daemon, defined once: name, unit, meaning. The prefix is `shoal_`.
//!
//! What is counted here is incremented where it happens. What other crates count themselves is read at each
//! scrape by [`crate::scrape`].

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Metric, Registry, Unit};
use shoal_registry_proxy::Source;

/// Where bytes that a client got came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the values of the label")]
pub(crate) enum SourceValue {
    local,
    swarm,
    origin,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct SourceLabel {
    pub source: SourceValue,
}

impl From<Source> for SourceLabel {
    fn from(source: Source) -> Self {
        let source = match source {
            Source::Local => SourceValue::local,
            Source::Swarm => SourceValue::swarm,
            Source::Origin => SourceValue::origin,
        };
        Self { source }
    }
}

macro_rules! metrics {
    ($( $field:ident : $type:ty = $name:literal, $unit:expr, $help:literal; )*) => {
        /// The counters that the daemon itself increments.
        #[derive(Clone, Debug, Default)]
        pub(crate) struct Metrics {
            $( #[doc = $help] pub(crate) $field: $type, )*
        }

        impl Metrics {
            /// Registers the counters.
            pub(crate) fn register(&self, registry: &mut Registry) {
                $( add(registry, $name, $help, $unit, self.$field.clone()); )*
            }
        }
    };
}

fn add(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>, metric: impl Metric) {
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, metric),
        None => registry.register(name, help, metric),
    }
}

metrics! {
    chunks_from_origin: Counter = "origin_chunks", None, "Chunks read from origins under a lease, hashed and stored";
    chunk_bytes_from_origin: Counter = "origin_chunk", Some(Unit::Bytes), "Bytes of those chunks";
    chunks_from_peers: Counter = "peer_chunks", None, "Chunks received from peers, checked and stored";
    chunk_bytes_from_peers: Counter = "peer_chunk", Some(Unit::Bytes), "Bytes of those chunks";
    chunks_rejected: Counter = "chunks_rejected", None, "Chunks from peers that did not match their entry";
    blobs_completed: Counter = "blobs_completed", None, "Blobs whose digest matched after a download";
    digest_mismatches: Counter = "digest_mismatches", None, "Blobs whose chunks all matched and whose digest did not";
    client_bytes: Family<SourceLabel, Counter> = "client_sent", Some(Unit::Bytes), "Bytes of blobs handed to clients, by where they came from";
    blobs_passed_through: Counter = "blobs_passed_through", None, "Reads of blobs that the disk could not take and that came straight from the origin";
    indexes_built: Counter = "indexes_built", None, "Layers whose index this node built";
    indexes_declined: Counter = "indexes_declined", None, "Layers that cannot be read lazily";
    lazy_requests: Counter = "lazy_requests", None, "Requests of the process that holds lazy filesystems";
    lazy_ranges: Family<SourceLabel, Counter> = "lazy_ranges", None, "Ranges of layers and indexes handed to lazy readers, by where they came from";
    lazy_range_bytes: Family<SourceLabel, Counter> = "lazy_ranges", Some(Unit::Bytes), "Bytes of those ranges";
    stale_tags: Counter = "stale_tags", None, "Tags answered from an older answer because the origin could not be asked";
    peer_calls_failed: Counter = "peer_calls_failed", None, "Calls to other nodes that did not lead to a link";
    tracker_sessions: Counter = "tracker_sessions", None, "Sessions opened with a scheduler";
}
