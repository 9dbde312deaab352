//! Reads what the node's parts count, at each scrape.

mod filesystem;

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use shoal_origin::Origins;
use shoal_proto::NodeId;
use shoal_registry_proxy::Source;
use shoal_store::{BlobName, Store};
use shoal_transport::Bulk;

use crate::lazy::Reports;
use crate::metrics::Metrics;
use crate::status::{BlobStatus, NodeStatus, PeerStatus, StoreStatus, TransferStatus};
use crate::swarm::{SwarmHandle, TrackerLink, Unreachable};

/// Everything of a node that has figures to show.
#[derive(Clone)]
pub(crate) struct Observed {
    pub node: NodeId,
    pub store: Store,
    pub origins: Origins,
    pub bulk: Arc<dyn Bulk>,
    pub proxy: Arc<shoal_registry_proxy::Metrics>,
    pub tracker: TrackerLink,
    pub swarm: SwarmHandle,
    pub metrics: Metrics,
    pub unreachable: Unreachable,
    pub scheduler_urls: Arc<[String]>,
    pub reports: Reports,
}

impl std::fmt::Debug for Observed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observed").field("node", &self.node).finish_non_exhaustive()
    }
}

/// The registry of all metrics of this node.
pub(crate) fn registry(observed: Observed) -> Registry {
    let mut registry = Registry::with_prefix("shoal");
    observed.metrics.register(&mut registry);
    registry.register_collector(Box::new(observed));
    registry
}

impl Observed {
    /// The node at this moment. Blocks while it reads the store.
    pub(crate) fn status(&self) -> NodeStatus {
        let store = self.store.statistics();
        NodeStatus {
            node: self.node.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            scheduler: self.tracker.has_scheduler(),
            scheduler_urls: self.scheduler_urls.to_vec(),
            scheduler_since_s: self.tracker.scheduler_for().as_secs(),
            store: StoreStatus {
                used_bytes: store.used_bytes,
                capacity_bytes: store.capacity_bytes,
                free_bytes: store.free_bytes,
            },
            blobs: self.store.list().into_iter().map(blob_status).collect(),
            peers: self.bulk.links().into_iter().map(peer_status).collect(),
            unreachable: self.unreachable.addresses(),
            transfer: self.transfer(),
            filesystem: self.reports.latest().map(|report| filesystem::status(report, &self.store)),
        }
    }

    fn transfer(&self) -> TransferStatus {
        let client = |source: Source| self.metrics.client_bytes.get_or_create(&source.into()).get();
        TransferStatus {
            origin_received_bytes: self.origins.counters().iter().map(|(_, c)| c.received_bytes).sum(),
            peer_received_bytes: self.metrics.chunk_bytes_from_peers.get(),
            chunks_rejected: self.metrics.chunks_rejected.get(),
            client_local_bytes: client(Source::Local),
            client_swarm_bytes: client(Source::Swarm),
            client_origin_bytes: client(Source::Origin),
        }
    }
}

fn blob_status(blob: shoal_store::BlobStatus) -> BlobStatus {
    let (digest, complete) = match blob.name {
        BlobName::Complete(digest) => (digest, true),
        BlobName::Partial(swarm) => (swarm.digest, false),
    };
    BlobStatus {
        digest: digest.to_string(),
        size: blob.size,
        held_chunks: blob.held_chunks,
        total_chunks: blob.total_chunks,
        complete,
        pinned: blob.pinned,
    }
}

fn peer_status(link: shoal_transport::LinkStats) -> PeerStatus {
    PeerStatus {
        node: link.node.to_string(),
        address: link.address.to_string(),
        sent_bytes: link.sent,
        received_bytes: link.received,
        rtt_us: u64::try_from(link.rtt.as_micros()).unwrap_or(u64::MAX),
    }
}

/// One figure, or one per label, as a collector writes it.
struct Out<'a>(DescriptorEncoder<'a>);

type Rows<'a> = &'a [(Vec<(&'static str, String)>, u64)];

impl Out<'_> {
    fn counter(&mut self, name: &str, unit: Option<&Unit>, help: &str, rows: Rows<'_>) -> std::fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        rows.iter()
            .try_for_each(|(labels, value)| ConstCounter::new(*value).encode(metric.encode_family(labels)?))
    }

    fn gauge(&mut self, name: &str, unit: Option<&Unit>, help: &str, rows: Rows<'_>) -> std::fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        rows.iter().try_for_each(|(labels, value)| {
            let value = i64::try_from(*value).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(metric.encode_family(labels)?)
        })
    }
}

fn one(value: u64) -> Vec<(Vec<(&'static str, String)>, u64)> {
    vec![(Vec::new(), value)]
}

impl Collector for Observed {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let out = &mut Out(encoder);
        let bytes = Some(&Unit::Bytes);
        self.encode_origins(out)?;
        self.encode_clients(out)?;
        let links = self.bulk.links();
        let sum = |of: fn(&shoal_transport::LinkStats) -> u64| one(links.iter().map(of).sum());
        out.gauge("peers", None, "Neighbours with a link", &one(links.len() as u64))?;
        let unreachable = one(self.unreachable.addresses().len() as u64);
        out.gauge("peers_unreachable", None, "Nodes that could not be called lately", &unreachable)?;
        out.gauge("links_sent", bytes, "Bytes sent on the links that are up", &sum(|l| l.sent))?;
        out.gauge("links_received", bytes, "Bytes received on the links that are up", &sum(|l| l.received))?;
        out.gauge(
            "links_black_holes",
            None,
            "How often large packets stopped getting through on the links that are up",
            &sum(|l| l.black_holes_detected),
        )?;
        let store = self.store.statistics();
        out.gauge("store_used", bytes, "Bytes of cached content", &one(store.used_bytes))?;
        out.gauge("store_free", bytes, "Bytes that the file system has left", &one(store.free_bytes))?;
        let blobs = (store.complete_blobs + store.partial_blobs) as u64;
        out.gauge("store_blobs", None, "Blobs in the store, whole or in part", &one(blobs))?;
        let help = "Chunks that did not match when they were read from disk";
        out.counter("chunks_corrupt", None, help, &one(store.corrupt_chunks))?;
        if let Some(report) = self.reports.latest() {
            filesystem::encode(out, &report)?;
        }
        let up = u64::from(self.tracker.has_scheduler());
        out.gauge("scheduler_session", None, "1 with a session with a scheduler, else 0", &one(up))
    }
}

impl Observed {
    fn encode_origins(&self, out: &mut Out<'_>) -> std::fmt::Result {
        let counters = self.origins.counters();
        let rows = |of: fn(&shoal_origin::CounterSnapshot) -> u64| -> Vec<_> {
            let row =
                |(name, c): &(shoal_proto::RegistryName, _)| (vec![("registry", name.to_string())], of(c));
            counters.iter().map(row).collect()
        };
        out.counter("origin_requests", None, "Requests sent to origins", &rows(|c| c.requests))?;
        let help = "Bytes of bodies received from origins";
        out.counter("origin_received", Some(&Unit::Bytes), help, &rows(|c| c.received_bytes))
    }

    fn encode_clients(&self, out: &mut Out<'_>) -> std::fmt::Result {
        let proxy = self.proxy.snapshot();
        let requests: Vec<_> = proxy
            .requests
            .iter()
            .map(|(route, class, count)| {
                (vec![("route", route.as_str().to_owned()), ("status", (*class).to_owned())], *count)
            })
            .collect();
        out.counter("http_requests", None, "Requests of clients, by route and status class", &requests)?;
        out.counter("http_cut_bodies", None, "Responses that broke off", &one(proxy.cut_bodies))?;
        out.gauge("http_in_flight", None, "Requests being answered", &one(proxy.in_flight as u64))?;
        out.gauge("http_connections", None, "Connections of clients", &one(proxy.connections as u64))
    }
}
