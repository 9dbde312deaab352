//! A span that a reader waits for, from a peer on the same machine.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use shoal_lazyfs::link::Link;
use shoal_lazyfs::source::Urgency;
use shoal_lazyfs::span_cache::{Patience, SpanCache};

use super::machine_layer::MachineLayer;
use super::median;
use crate::Bench;
use crate::cluster::{Cluster, Shoal};
use crate::origin::Origin;
use crate::report::Aim;
use crate::sample::Sample;

/// Spans that are read, at random places.
const SPANS: usize = 200;
/// What a page fault reads.
const READ: usize = 4096;
/// How long a node may take to build the index of a layer that it has.
const INDEXED: Duration = Duration::from_secs(120);
/// How often it is asked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub(super) async fn measure(bench: &mut Bench, of: MachineLayer) -> Result<()> {
    bench.report.section("A span on demand, from a peer on this machine");
    let config = json!({
        "architecture": match std::env::consts::ARCH { "aarch64" => "arm64", _ => "amd64" },
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [of.diff_id.to_string()] },
    });
    let sample = Sample::of(of.layer, "application/vnd.oci.image.layer.v1.tar+gzip", &config);
    let origin = Origin::start(sample.clone()).await?;
    let mut cluster = Cluster::new(bench.folder())?;
    let _scheduler = cluster.scheduler().await?;
    let has = cluster.daemon(Some(origin.address), "").await?;
    let asks = cluster.daemon(Some(origin.address), "").await?;
    has.fetch(&sample).await?;
    resolve(&has, &sample).await?;
    let link = resolve(&asks, &sample).await?;

    let folder = tempfile::tempdir_in(bench.folder())?;
    let cache = SpanCache::open(folder.path(), std::sync::Arc::new(link), Patience::default())?;
    let layer = cache.layer(&sample.layer.digest).await?;
    let spans = &layer.index().spans;
    let mut order: Vec<_> = spans.indexes().collect();
    fastrand::Rng::with_seed(9).shuffle(&mut order);
    let mut times = Vec::new();
    for span in order.into_iter().take(SPANS) {
        let start = spans.tar_range(span).context("a span")?.start;
        let begun = Instant::now();
        layer.read(start, &mut [0; READ], Urgency::Demand).await?;
        times.push(begun.elapsed());
    }
    let counts = cache.counts();
    ensure!(counts.spans_on_demand == times.len() as u64, "{counts}");
    let count = times.len();
    bench.report.add_aimed(format!("median of {count}"), median(&mut times), "ms", Aim::Below(15.0));
    let late = times.get(count * 99 / 100).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
    bench.report.add("99th percentile", late, "ms");
    Ok(())
}

/// Waits until the node knows the layer's index.
async fn resolve(node: &Shoal, sample: &Sample) -> Result<Link> {
    let link = Link::open(&node.lazy_socket);
    let name = format!("bench.test/bench@{}", sample.manifest_digest);
    let deadline = Instant::now() + INDEXED;
    loop {
        let image = link.resolve(&name, None).await?;
        let layer = image.layers.first().context("the image has no layer")?;
        match &layer.index {
            Ok(_) => return Ok(link),
            Err(why) if Instant::now() > deadline => bail!("no index after {INDEXED:?}: {why}"),
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}
