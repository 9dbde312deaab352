//! A whole run: the network, the images, and each mode after the other.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::arguments::ClusterArguments;
use super::given::take;
use super::load::TOO_BUSY;
use super::measure::{Bench, Measured};
use super::scenario::Images;
use super::upstream::Upstream;
use crate::WarmMemory;
use crate::report::{Kind, Mode, Report, debug_build};
use crate::rig::folder::Folder;
use crate::rig::image::{Image, LayerMaker};
use crate::rig::interrupt::until_told;
use crate::rig::net::{self, Goodput, Network, Plan, RunName, remove_leftovers};
use crate::rig::progress::Progress;
use crate::rig::registry;

/// Processors that were too busy for a larger part of the time than this are worth a note, also where the mean is fine.
const OFTEN: f64 = 0.25;

/// How much of a rolling update's image is new.
const NEW_PERCENT: u64 = 10;

/// Runs that write at least so much are worth the seconds that [`WarmMemory`] takes, for else it would be a matter of
/// luck how busy the processors are.
const WARM_FROM: u64 = 1 << 30;

/// Measures what the arguments ask for. Whatever it makes on the machine is gone when it returns, also after SIGINT,
/// SIGTERM and SIGHUP; what an earlier run left that was killed is removed at the start.
pub fn run(arguments: &ClusterArguments) -> Result<Report> {
    let plan = arguments.plan()?;
    ensure!(rustix::process::geteuid().is_root(), "network namespaces need root: run it with sudo");
    until_told(measure(arguments, plan))
}

async fn measure(arguments: &ClusterArguments, plan: Plan) -> Result<Report> {
    let progress = Progress::on_terminal();
    let upstream = arguments.origin().map(Upstream::new).transpose()?;
    remove_leftovers()?;
    let name = RunName::new()?;
    let folder = Folder::make(name.folder())?;
    let step = progress.step("getting the image".to_owned());
    let given = match (arguments.image(), &upstream) {
        (Some(name), Some(upstream)) => Some(upstream.image(name).await?),
        (Some(name), None) => Some(tokio::task::block_in_place(|| take(name, &folder.path().join("given")))?),
        (None, _) => None,
    };
    step.set_message("making the network");
    let network = Network::make(name, plan)?;
    step.set_message("checking the links with plain TCP");
    let goodput = net::measure(&network).await?;
    step.set_message("making the images");
    let images = match given {
        Some(image) => Images { cold: image, rolling: None },
        None => make_images(arguments, folder.path())?,
    };
    let bench =
        Bench { network: &network, goodput, folder: folder.path(), progress: progress.clone(), upstream };
    if bench.upstream.is_none() {
        let origin = bench.origin().await?;
        let all = [&images.cold].into_iter().chain(images.rolling.iter().flat_map(|(old, new)| [old, new]));
        registry::push(&network, all.cloned().collect()).await?;
        origin.stop().await?;
    }
    let _warm = if images.cold.bytes() * plan.nodes as u64 >= WARM_FROM {
        step.set_message("making the host of this machine provide its memory");
        Some(tokio::task::block_in_place(WarmMemory::provide)?)
    } else {
        None
    };
    step.finish_and_clear();

    let problem = goodput.problem(&plan).map(|problem| format!("{problem}; no ratios are claimed"));
    let alone = Duration::from_secs_f64(images.cold.bytes() as f64 / goodput.link);
    let (mut modes, mut broken) = (Vec::new(), Vec::new());
    for mode in arguments.modes() {
        let Measured { mode, failure } = bench.measure(mode, &mode.scenario(&images, &plan, alone)).await?;
        modes.push(Mode { ratio: mode.ratio.filter(|_| problem.is_none()), ..mode });
        broken.extend(failure);
    }
    Ok(Report {
        kind: Kind::Cluster,
        command: String::new(),
        settings: arguments.settings(&plan, &images.cold),
        facts: facts(&goodput),
        notes: debug_build()
            .into_iter()
            .chain(problem)
            .chain(too_busy(&modes))
            .chain(often_busy(&modes))
            .collect(),
        broken,
        modes,
    })
}

fn make_images(arguments: &ClusterArguments, folder: &Path) -> Result<Images> {
    let mut maker = LayerMaker::new(folder, arguments.compressible());
    let sizes = arguments.layer_sizes();
    let cold = Image::new("cold", maker.layers(&sizes)?);
    let new: u64 = sizes.iter().sum::<u64>() * NEW_PERCENT / 100;
    let kept: Vec<u64> = sizes.iter().map(|size| size * (100 - NEW_PERCENT) / 100).collect();
    let shared = maker.layers(&kept)?;
    let mut version = |tag| -> Result<Image> {
        let own = maker.layers(&[new])?;
        Ok(Image::new(tag, shared.iter().cloned().chain(own).collect()))
    };
    Ok(Images { cold, rolling: Some((version("old")?, version("new")?)) })
}

/// What the links carry, and differs a little each time.
fn facts(goodput: &Goodput) -> Vec<(String, String)> {
    let mut links =
        vec![("a node's link carries", goodput.link), ("the origin's link carries", goodput.origin)];
    links.extend(goodput.zone.map(|zone| ("a zone's uplink carries", zone)));
    let told = |rate: f64| format!("{:.1} Mbit/s of content", rate * 8.0 / 1e6);
    links.into_iter().map(|(name, rate)| (name.to_owned(), told(rate))).collect()
}

fn too_busy(modes: &[Mode]) -> Option<String> {
    let busy = percents(modes, |mode| mode.busy.filter(|busy| *busy > TOO_BUSY))?;
    Some(format!(
        "the processors were too busy in {busy}: that measured them and not the links, and no ratio is claimed"
    ))
}

/// Modes whose mean hides that the processors were full for long.
fn often_busy(modes: &[Mode]) -> Option<String> {
    let hidden = |mode: &&Mode| mode.busy.is_some_and(|busy| busy <= TOO_BUSY);
    let modes: Vec<Mode> = modes.iter().filter(hidden).cloned().collect();
    let often = percents(&modes, |mode| mode.saturated.filter(|share| *share > OFTEN))?;
    Some(format!(
        "the processors were more than {:.0} % busy for a part of the time in {often}: with more of them the last node \
         may have been faster",
        TOO_BUSY * 100.0
    ))
}

/// The modes that have such a share, each with it.
fn percents(modes: &[Mode], share: impl Fn(&Mode) -> Option<f64>) -> Option<String> {
    let told = |mode: &Mode| Some(format!("{} ({:.0} %)", mode.name, share(mode)? * 100.0));
    let told: Vec<String> = modes.iter().filter_map(told).collect();
    (!told.is_empty()).then(|| told.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_that_were_full_for_half_of_the_time_are_told() {
        let mode = |name: &str, busy, saturated| Mode {
            name: name.to_owned(),
            busy: Some(busy),
            saturated: Some(saturated),
            ..Mode::default()
        };
        let modes = [mode("direct", 0.2, 0.0), mode("shoal", 0.7, 0.5), mode("cache", 0.9, 1.0)];
        let (often, always) = (often_busy(&modes).unwrap(), too_busy(&modes).unwrap());
        assert!(often.contains("in shoal (50 %):"), "{often}");
        assert!(always.contains("in cache (90 %):"), "{always}");
        assert_eq!((often_busy(&modes[..1]), too_busy(&modes[..2])), (None, None));
    }
}
