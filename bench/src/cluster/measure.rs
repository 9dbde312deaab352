//! One mode, measured.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use futures_util::future::join_all;

use super::bound;
use super::load::{LoadWatch, TOO_BUSY};
use super::origin::Origin;
use super::scenario::{ModeName, Scenario, Way};
use super::shoal::{PeakMemory, Shoal};
use super::upstream::Upstream;
use crate::report::{Mode, Sample};
use crate::rig::client::{Pull, Pulled};
use crate::rig::folder::Folder;
use crate::rig::image::Image;
use crate::rig::members::MIRROR;
use crate::rig::net::{Counters, Goodput, Host, Network, Watch, inside};
use crate::rig::progress::Progress;
use crate::rig::registry::{self, Registry};

/// Clients are ready by then, and start at the same moment.
const UNTIL_START: Duration = Duration::from_millis(200);
/// A pull is given up after this, and three times as long as all nodes would need through the origin's link alone.
const PATIENCE: Duration = Duration::from_secs(60);
const GIB: f64 = (1u64 << 30) as f64;

/// What all modes of a run share.
#[derive(Debug)]
pub(super) struct Bench<'a> {
    pub network: &'a Network,
    pub goodput: Goodput,
    pub folder: &'a Path,
    pub progress: Progress,
    /// The registry that is the origin, where it is not one of this run.
    pub upstream: Option<Upstream>,
}

/// A mode, and why nodes did not finish that did not.
#[derive(Debug)]
pub(super) struct Measured {
    pub mode: Mode,
    pub failure: Option<String>,
}

/// What runs beside the origin in a mode, with empty caches.
struct Cast {
    origin: Origin,
    /// Held for its drop.
    _cache: Option<Registry>,
    shoal: Option<Shoal>,
    /// After the processes that write there.
    _folder: Folder,
}

impl Bench<'_> {
    pub(super) async fn measure(&self, mode: ModeName, scenario: &Scenario) -> Result<Measured> {
        let name = mode.name();
        let step = self.progress.step(format!("{name}: starting"));
        let mut cast = self.start(&name, scenario).await?;
        if let Some((image, nodes)) = &scenario.before {
            step.set_message(format!("{name}: filling {} nodes over open links", nodes.len()));
            self.network.unshape()?;
            let start = Instant::now() + UNTIL_START;
            let pulls = nodes.iter().map(|node| (*node, self.pull(scenario.way, image, start)));
            let pulled = self.pull_all(pulls.collect(), &cast, self.patience(image)).await;
            pulled.into_iter().collect::<Result<Vec<_>>>()?;
            self.network.shape()?;
            // With an empty log.
            cast.origin.stop().await?;
            cast.origin = self.origin().await?;
        }
        step.finish_and_clear();
        self.run(name, scenario, cast).await
    }

    async fn run(&self, name: String, scenario: &Scenario, cast: Cast) -> Result<Measured> {
        let lacking = scenario.lacking();
        let bar = self.progress.mode(&name, lacking * scenario.arrivals.len() as u64);
        let seen = bar.clone();
        let plan = *self.network.plan();
        let watch = Watch::start(self.network.core(), plan, move |bytes| seen.set_position(bytes));
        // All nodes write to one disk: what was written before, as the registry's copy of the image, is not theirs to flush.
        tokio::task::spawn_blocking(rustix::fs::sync).await?;
        let memory = cast.shoal.as_ref().map(PeakMemory::watch);
        let cpu_before = cast.shoal.as_ref().map(Shoal::cpu_seconds).transpose()?;
        let start = Instant::now() + UNTIL_START;
        let load = LoadWatch::start(start);
        let has = scenario.unpacked.iter().map(ToString::to_string).collect::<Vec<_>>();
        let pulls = scenario.arrivals.iter().map(|(node, at)| {
            let pull = self.pull(scenario.way, &scenario.image, start + *at);
            (*node, Pull { has: has.clone(), ..pull })
        });
        let pulled = self.pull_all(pulls.collect(), &cast, self.patience(&scenario.image)).await;
        let given_up_s = start.elapsed().as_secs_f64();
        let load = load.end().await?;
        let cpu = cast.shoal.as_ref().map(Shoal::cpu_seconds).transpose()?;
        let samples = watch.samples().await?;
        let memory = match memory {
            Some(memory) => Some(memory.peak().await?),
            None => None,
        };
        drop(cast.shoal);
        let origin = cast.origin.stop().await?;

        let failed = pulled.iter().filter_map(|pulled| pulled.as_ref().err());
        let (unfinished, first) = (failed.clone().count(), failed.map(|why| format!("{why:#}")).next());
        let done: Vec<(&Pulled, Duration)> = (pulled.iter().zip(&scenario.arrivals))
            .filter_map(|(pulled, (_, at))| Some((pulled.as_ref().ok()?, *at)))
            .collect();
        let times = |moment: fn(&Pulled) -> Instant| {
            done.iter().map(move |(pulled, at)| moment(pulled).duration_since(start + *at).as_secs_f64())
        };
        let bound_s = bound::seconds(&plan, &self.goodput, scenario);
        let finish_s = times(|pulled| pulled.finished).collect();
        let timed = Mode::timed(bound_s, finish_s, unfinished, given_up_s);
        let delivered: u64 = done.iter().map(|(pulled, _)| pulled.bytes).sum();
        let traffic = traffic(&samples, start, scenario.way);
        let nodes = timed.nodes;
        let failure =
            first.map(|first| format!("{name}: {unfinished} of {nodes} nodes never finished: {first}"));
        bar.finish_with_message(match unfinished {
            0 => format!("last node after {:.1} s", timed.last_s),
            _ => format!("{unfinished} of {nodes} nodes never finished"),
        });
        let mode = Mode {
            name,
            ratio: timed.ratio.filter(|_| load.mean <= TOO_BUSY),
            origin_bytes: origin.bytes,
            image_bytes: scenario.image.bytes(),
            new_bytes: lacking,
            origin_gets: origin.gets,
            cross_zone_bytes: traffic.last().map_or(0, |sample| sample.cross_zone_bytes),
            cpu_s_per_gib: cpu
                .zip(cpu_before)
                .filter(|_| delivered > 0)
                .map(|(end, start)| (end - start) / (delivered as f64 / GIB)),
            busy: Some(load.mean),
            busy_most: Some(load.most),
            saturated: Some(load.saturated),
            rss_anon_peak: memory.map(|memory| memory.daemon),
            scheduler_rss_anon_peak: memory.map(|memory| memory.scheduler),
            first_byte_last_s: times(|pulled| pulled.first_byte).reduce(f64::max),
            traffic,
            ..timed
        };
        Ok(Measured { mode, failure })
    }

    async fn start(&self, name: &str, scenario: &Scenario) -> Result<Cast> {
        let folder = Folder::make(self.folder.join(name))?;
        let origin = self.origin().await?;
        let (mut cache, mut shoal) = (None, None);
        match scenario.way {
            Way::Direct => {}
            Way::Cache => {
                let remote = registry::url(Host::Origin);
                cache = Some(Registry::start(self.network, Host::Cache, folder.path(), Some(&remote)).await?);
            }
            Way::Shoal { zones } => shoal = Some(Shoal::start(self.network, folder.path(), zones).await?),
        }
        Ok(Cast { origin, _cache: cache, shoal, _folder: folder })
    }

    /// The origin with the run's images; it has sent nothing yet.
    pub(super) async fn origin(&self) -> Result<Origin> {
        match &self.upstream {
            Some(upstream) => Ok(Origin::Upstream(upstream.serve(self.network).await?)),
            None => {
                let folder = self.folder.join("origin");
                Ok(Origin::Own(Registry::start(self.network, Host::Origin, &folder, None).await?))
            }
        }
    }

    fn pull(&self, way: Way, image: &Image, start: Instant) -> Pull {
        let url = match way {
            Way::Direct => registry::url(Host::Origin),
            Way::Cache => registry::url(Host::Cache),
            Way::Shoal { .. } => MIRROR.to_owned(),
        };
        let (repository, reference) = (image.repository.clone(), image.reference.clone());
        Pull { url, repository, reference, has: Vec::new(), start }
    }

    /// All nodes one after the other, three times over: a mode that takes longer hangs.
    fn patience(&self, image: &Image) -> Duration {
        let bytes = image.bytes() as f64 * self.network.plan().nodes as f64;
        PATIENCE + Duration::from_secs_f64(3.0 * bytes / self.goodput.origin.min(self.goodput.link))
    }

    /// What came of each, in this order.
    async fn pull_all(
        &self,
        pulls: Vec<(usize, Pull)>,
        cast: &Cast,
        patience: Duration,
    ) -> Vec<Result<Pulled>> {
        let all = pulls.into_iter().map(|(node, pull)| async move {
            let pulled = inside(self.network.namespace(Host::Node(node)), || pull.run());
            let pulled = tokio::time::timeout(patience, pulled).await;
            let pulled = pulled.unwrap_or_else(|_| Err(anyhow!("not done after {patience:.0?}")));
            pulled.with_context(|| match &cast.shoal {
                Some(shoal) => format!("node {node}, whose daemon said:\n{}\n", shoal.tail(node)),
                None => format!("node {node}"),
            })
        });
        join_all(all).await
    }
}

/// Where bytes came from: the origin, or other machines, which are nodes or the pull-through cache.
fn traffic(counted: &[(Instant, Counters)], start: Instant, way: Way) -> Vec<Sample> {
    let Some((_, first)) = counted.first() else { return Vec::new() };
    let sample = |(at, counters): &(Instant, Counters)| {
        let counters = counters.since(*first);
        Sample {
            at_s: at.saturating_duration_since(start).as_secs_f64(),
            origin_bytes: counters.from_origin,
            peer_bytes: match way {
                Way::Cache => counters.from_cache,
                Way::Direct | Way::Shoal { .. } => counters.to_nodes.saturating_sub(counters.from_origin),
            },
            cross_zone_bytes: counters.between_zones,
        }
    };
    counted.iter().map(sample).collect()
}
