//! A whole run: the network, the images, and each mode after the other.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytesize::ByteSize;

use super::arguments::ClusterArguments;
use super::given::take;
use super::measure::{Bench, TOO_BUSY};
use super::scenario::Images;
use super::upstream::Upstream;
use crate::WarmMemory;
use crate::rate::Rate;
use crate::report::{Kind, Mode, Report};
use crate::rig::folder::Folder;
use crate::rig::image::{Image, LayerMaker};
use crate::rig::interrupt::until_told;
use crate::rig::net::{self, Goodput, Network, Plan, RunName, remove_leftovers};
use crate::rig::progress::Progress;
use crate::rig::registry;

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
    let name = RunName::new();
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
    let mut modes = Vec::new();
    for mode in arguments.modes() {
        let mut measured = bench.measure(mode, &mode.scenario(&images, &plan, alone)).await?;
        if problem.is_some() {
            measured.ratio = None;
        }
        modes.push(measured);
    }
    Ok(Report {
        kind: Kind::Cluster,
        command: String::new(),
        settings: settings(&plan, &goodput, &images),
        notes: problem.into_iter().chain(too_busy(&modes)).collect(),
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

fn settings(plan: &Plan, goodput: &Goodput, images: &Images) -> Vec<(String, String)> {
    let link = |rate: Rate, goodput: f64| format!("{rate}, {:.1} Mbit/s of content", goodput * 8.0 / 1e6);
    let mut settings = vec![
        ("nodes", plan.nodes.to_string()),
        ("each node's link", link(plan.link, goodput.link)),
        ("origin's link", link(plan.origin_link, goodput.origin)),
    ];
    if let Some(zone) = goodput.zone {
        settings.push(("zones", plan.zones.to_string()));
        settings.push(("each zone's uplink", link(plan.zone_link, zone)));
    }
    let layers = images.cold.layers.len();
    let noun = if layers == 1 { "layer" } else { "layers" };
    settings.push(("image", format!("{} in {layers} {noun}", ByteSize::b(images.cold.bytes()))));
    settings.push(("processors", std::thread::available_parallelism().map_or(1, usize::from).to_string()));
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn too_busy(modes: &[Mode]) -> Option<String> {
    let busy = modes.iter().filter_map(|mode| Some((&mode.name, mode.busy.filter(|busy| *busy > TOO_BUSY)?)));
    let busy: Vec<String> = busy.map(|(name, busy)| format!("{name} ({:.0} %)", busy * 100.0)).collect();
    (!busy.is_empty()).then(|| {
        format!(
            "the processors were too busy in {}: that measured them and not the links, and no ratio is claimed",
            busy.join(", ")
        )
    })
}
