//! One mode, measured.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;

use super::bound;
use super::origin::Origin;
use super::scenario::{ModeName, Scenario, Way};
use super::shoal::{PeakMemory, Shoal};
use super::upstream::Upstream;
use super::usage::Processors;
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
/// Processors that were busier than this may have been what was measured, and not the links.
pub(super) const TOO_BUSY: f64 = 0.85;
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
    pub(super) async fn measure(&self, mode: ModeName, scenario: &Scenario) -> Result<Mode> {
        let name = mode.name();
        let step = self.progress.step(format!("{name}: starting"));
        let mut cast = self.start(&name, scenario).await?;
        if let Some((image, nodes)) = &scenario.before {
            step.set_message(format!("{name}: filling {} nodes over open links", nodes.len()));
            self.network.unshape()?;
            let start = Instant::now() + UNTIL_START;
            let pulls = nodes.iter().map(|node| (*node, self.pull(scenario.way, image, start)));
            self.pull_all(pulls.collect(), &cast, self.patience(image)).await?;
            self.network.shape()?;
            // With an empty log.
            cast.origin.stop().await?;
            cast.origin = self.origin().await?;
        }
        step.finish_and_clear();
        self.run(name, scenario, cast).await
    }

    async fn run(&self, name: String, scenario: &Scenario, cast: Cast) -> Result<Mode> {
        let lacking = scenario.lacking();
        let bar = self.progress.mode(&name, lacking * scenario.arrivals.len() as u64);
        let seen = bar.clone();
        let plan = *self.network.plan();
        let watch = Watch::start(self.network.core(), plan, move |bytes| seen.set_position(bytes));
        let memory = cast.shoal.as_ref().map(PeakMemory::watch);
        let cpu_before = cast.shoal.as_ref().map(Shoal::cpu_seconds).transpose()?;
        let processors = Processors::now()?;
        let start = Instant::now() + UNTIL_START;
        let has = scenario.unpacked.iter().map(ToString::to_string).collect::<Vec<_>>();
        let pulls = scenario.arrivals.iter().map(|(node, at)| {
            let pull = self.pull(scenario.way, &scenario.image, start + *at);
            (*node, Pull { has: has.clone(), ..pull })
        });
        let pulled = self.pull_all(pulls.collect(), &cast, self.patience(&scenario.image)).await?;
        let busy = Processors::now()?.busy_since(processors);
        let cpu = cast.shoal.as_ref().map(Shoal::cpu_seconds).transpose()?;
        let samples = watch.samples().await?;
        let memory = match memory {
            Some(memory) => Some(memory.peak().await?),
            None => None,
        };
        drop(cast.shoal);
        let origin = cast.origin.stop().await?;

        let times = |moment: fn(&Pulled) -> Instant| {
            let own = pulled.iter().zip(&scenario.arrivals);
            own.map(move |(pulled, (_, at))| moment(pulled).duration_since(start + *at).as_secs_f64())
        };
        let mut finish_s: Vec<f64> = times(|pulled| pulled.finished).collect();
        finish_s.sort_by(f64::total_cmp);
        let last_s = finish_s.last().copied().unwrap_or_default();
        let bound_s = bound::seconds(&plan, &self.goodput, scenario);
        let delivered: u64 = pulled.iter().map(|pulled| pulled.bytes).sum();
        let traffic = traffic(&samples, start, scenario.way);
        bar.finish_with_message(format!("last node after {last_s:.1} s"));
        Ok(Mode {
            name,
            nodes: finish_s.len(),
            bound_s,
            last_s,
            p50_s: percentile(&finish_s, 50),
            p99_s: percentile(&finish_s, 99),
            ratio: (bound_s > 0.0 && busy <= TOO_BUSY).then(|| last_s / bound_s),
            origin_bytes: origin.bytes,
            image_bytes: scenario.image.bytes(),
            new_bytes: lacking,
            origin_gets: origin.gets,
            cross_zone_bytes: traffic.last().map_or(0, |sample| sample.cross_zone_bytes),
            cpu_s_per_gib: cpu.zip(cpu_before).map(|(end, start)| (end - start) / (delivered as f64 / GIB)),
            busy: Some(busy),
            rss_anon_peak: memory.map(|memory| memory.daemon),
            scheduler_rss_anon_peak: memory.map(|memory| memory.scheduler),
            first_byte_last_s: times(|pulled| pulled.first_byte).reduce(f64::max),
            finish_s,
            traffic,
        })
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

    async fn pull_all(
        &self,
        pulls: Vec<(usize, Pull)>,
        cast: &Cast,
        patience: Duration,
    ) -> Result<Vec<Pulled>> {
        let all = pulls.into_iter().map(|(node, pull)| async move {
            let pulled = inside(self.network.namespace(Host::Node(node)), || pull.run()).await;
            pulled.with_context(|| match &cast.shoal {
                Some(shoal) => format!("node {node}, whose daemon said:\n{}\n", shoal.tail(node)),
                None => format!("node {node}"),
            })
        });
        tokio::select! {
            all = try_join_all(all) => all,
            () = tokio::time::sleep(patience) => bail!("not all nodes are done after {patience:.0?}"),
        }
    }
}

/// The smallest time that so many percent of the nodes needed at most.
fn percentile(ascending: &[f64], percent: usize) -> f64 {
    let rank = (ascending.len() * percent).div_ceil(100);
    ascending.get(rank.saturating_sub(1)).copied().unwrap_or_default()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_of_nodes() {
        let times: Vec<f64> = (1..=16).map(f64::from).collect();
        assert_eq!((percentile(&times, 50), percentile(&times, 99)), (8.0, 16.0));
        assert_eq!((percentile(&[3.0], 50), percentile(&[], 50)), (3.0, 0.0));
    }
}
