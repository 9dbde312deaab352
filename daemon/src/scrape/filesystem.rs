//! What the process with the filesystems said of itself, as metrics and as status.

use std::collections::HashMap;
use std::fmt;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use shoal_lazyfs::link::messages::{Report, ShownImage};
use shoal_lazyfs::span_cache::WAIT_BOUNDS_MS;
use shoal_store::{BlobName, Store};

use super::{Out, one};
use crate::status::{FilesystemStatus, ShownImageStatus, SpanStatus, WaitStatus};

/// How long reads waited.
#[derive(Debug)]
struct Waits<'a>(&'a Report);

impl EncodeMetric for Waits<'_> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let Report { waits, waited_us, .. } = self.0;
        let bounds = WAIT_BOUNDS_MS.iter().map(|ms| *ms as f64 / 1e3).chain([f64::MAX]);
        let buckets: Vec<_> = bounds.zip(waits.iter().copied()).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        encoder.encode_histogram::<NoLabelSet>(*waited_us as f64 / 1e6, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// The figures of `shoal fs`, under names that begin with `fs_`.
pub(super) fn encode(out: &mut Out<'_>, report: &Report) -> fmt::Result {
    let bytes = Some(&Unit::Bytes);
    let labelled = |label: &'static str, rows: &[(&str, u64)]| -> Vec<_> {
        rows.iter().map(|(value, count)| (vec![(label, (*value).to_owned())], *count)).collect()
    };
    let sources = labelled(
        "source",
        &[
            ("peer", report.spans_from_peers),
            ("registry", report.spans_from_registry),
            ("store", report.spans_from_store),
            ("disk", report.spans_from_disk),
        ],
    );
    out.counter("fs_spans", None, "Spans of layers by where they came from", &sources)?;
    let purposes = labelled(
        "for",
        &[
            ("reader", report.spans_on_demand),
            ("ahead", report.spans_prefetched),
            ("fill", report.spans_filled),
        ],
    );
    out.counter("fs_spans_fetched", None, "Spans that were fetched, by what for", &purposes)?;
    out.counter("fs_spans_wrong", None, "Times that a span came wrong", &one(report.spans_wrong))?;
    out.counter("fs_spans_failed", None, "Spans that could not be had", &one(report.spans_failed))?;
    out.counter("fs_read", bytes, "Bytes of files that readers got", &one(report.bytes_read))?;
    out.counter("fs_fetched", bytes, "Bytes that were fetched for it", &one(report.bytes_fetched))?;
    out.gauge("fs_disk_used", bytes, "Bytes of the disk that layers take", &one(report.disk_used))?;
    let layers = || report.images.iter().flat_map(|image| &image.layers);
    let images = report.images.len() as u64 + report.more_images;
    out.gauge("fs_images", None, "Images that are shown", &one(images))?;
    let whole = report.images.iter().filter(|image| image.layers.iter().all(|layer| layer.whole));
    out.gauge("fs_images_whole", None, "Those that are there as a whole", &one(whole.count() as u64))?;
    let mut unique: Vec<_> = layers().map(|layer| (&layer.digest, layer.tar, layer.local)).collect();
    unique.sort_unstable();
    unique.dedup();
    let (tar, local) = unique.iter().fold((0, 0), |(tar, local), layer| (tar + layer.1, local + layer.2));
    out.gauge("fs_layers", bytes, "Bytes of the layers that are shown, uncompressed", &one(tar))?;
    out.gauge("fs_layers_local", bytes, "Bytes of them that are there", &one(local))?;
    let waits = Waits(report);
    let help = "How long reads waited for spans that were not there";
    let metric = out.0.encode_descriptor("fs_wait", help, Some(&Unit::Seconds), waits.metric_type())?;
    waits.encode(metric)
}

/// The same for people, and beside each image what the node's own store holds of its layers. Blocks.
pub(super) fn status(report: Report, store: &Store) -> FilesystemStatus {
    let held: HashMap<String, u64> = store
        .list()
        .into_iter()
        .filter_map(|blob| match blob.name {
            BlobName::Complete(digest) => Some((digest.to_string(), blob.size)),
            BlobName::Partial(_) => None,
        })
        .collect();
    let bounds = WAIT_BOUNDS_MS.iter().copied().map(Some).chain([None]);
    FilesystemStatus {
        images: report.images.iter().map(|shown| image(shown, &held)).collect(),
        more_images: report.more_images,
        disk_used_bytes: report.disk_used,
        disk_limit_bytes: report.disk_limit,
        read_bytes: report.bytes_read,
        fetched_bytes: report.bytes_fetched,
        spans: SpanStatus {
            peer: report.spans_from_peers,
            registry: report.spans_from_registry,
            store: report.spans_from_store,
            disk: report.spans_from_disk,
            wrong: report.spans_wrong,
            failed: report.spans_failed,
        },
        waits: bounds.zip(report.waits).map(|(up_to_ms, reads)| WaitStatus { up_to_ms, reads }).collect(),
        waited_s: report.waited_us as f64 / 1e6,
    }
}

fn image(shown: &ShownImage, held: &HashMap<String, u64>) -> ShownImageStatus {
    let layers = &shown.layers;
    ShownImageStatus {
        name: shown.name.clone(),
        layers: layers.len() as u64,
        whole_layers: layers.iter().filter(|layer| layer.whole).count() as u64,
        tar_bytes: layers.iter().map(|layer| layer.tar).sum(),
        local_bytes: layers.iter().map(|layer| layer.local).sum(),
        store_bytes: layers.iter().filter_map(|layer| held.get(&layer.digest)).sum(),
    }
}
