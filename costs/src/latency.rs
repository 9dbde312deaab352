//! How long a HEAD of a cached manifest takes, on one kept-alive connection.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::Bench;
use crate::client::Client;
use crate::cluster::{Cluster, Shoal};
use crate::origin::Origin;
use crate::report::Aim;
use crate::sample::Sample;

const REQUESTS: usize = 2000;
/// Before counting: the first requests find nothing warm.
const WARM_UP: usize = 100;
/// Nobody reads the layer.
const SIZE: u64 = 1 << 20;

pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    bench.report.section("Latency of a manifest's HEAD, kept alive");
    let sample = Sample::make(bench.folder(), SIZE, 5)?;
    let origin = Origin::start(sample.clone()).await?;
    let mut cluster = Cluster::new(bench.folder())?;
    let node = cluster.daemon(Some(origin.address), "").await?;
    node.pull(&sample).await?;
    // Asks the origin each time.
    let asking = cluster.daemon(Some(origin.address), "tag_ttl = \"0s\"").await?;
    asking.pull(&sample).await?;

    let by_digest = times(&node, &sample.manifest_digest.to_string(), &origin).await?;
    tell(bench, "by digest", by_digest.cached, true);
    let by_tag = times(&node, "latest", &origin).await?;
    tell(bench, "by tag, answer known", by_tag.cached, true);
    let revalidated = times(&asking, "latest", &origin).await?;
    let asked = [by_tag.asked, revalidated.asked].concat();
    tell(bench, "by tag, origin asked", asked, false);
    Ok(())
}

/// Apart, by whether the origin was asked meanwhile.
struct Times {
    cached: Vec<Duration>,
    asked: Vec<Duration>,
}

async fn times(node: &Shoal, reference: &str, origin: &Origin) -> Result<Times> {
    let path = format!("/v2/bench/manifests/{reference}");
    let address = node.address;
    // The origin runs on the runtime's other threads.
    tokio::task::block_in_place(|| {
        let mut client = Client::connect(address, 0)?;
        (0..WARM_UP).try_for_each(|_| client.head(&path))?;
        let mut times = Times { cached: Vec::new(), asked: Vec::new() };
        for _ in 0..REQUESTS {
            let (before, started) = (origin.manifest_requests(), Instant::now());
            client.head(&path)?;
            let took = started.elapsed();
            let asked = origin.manifest_requests() != before;
            if asked { times.asked.push(took) } else { times.cached.push(took) }
        }
        Ok(times)
    })
}

fn tell(bench: &mut Bench, what: &str, mut times: Vec<Duration>, aimed: bool) {
    times.sort_unstable();
    let at = |part: f64| {
        // Below the length, which fits.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index of the vector")]
        let index = (times.len() as f64 * part) as usize;
        times.get(index).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0)
    };
    let count = times.len();
    if aimed {
        bench.report.add_aimed(format!("{what}, median of {count}"), at(0.5), "ms", Aim::Below(1.0));
    } else {
        bench.report.add(format!("{what}, median of {count}"), at(0.5), "ms");
    }
    bench.report.add(format!("{what}, 99th percentile"), at(0.99), "ms");
}
