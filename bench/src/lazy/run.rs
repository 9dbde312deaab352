//! A whole run: the images, and for each link the network, the node that has seen them, and all starts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::arguments::LazyArguments;
use super::layout;
use super::measure::{Bench, Start, Way, metric};
use super::node::{HOLDER, MEASURED, Node};
use super::prepare::Kept;
use super::report::{FullRead, LazyReport, LazyResult, Readiness};
use crate::rig::client::Pull;
use crate::rig::folder::Folder;
use crate::rig::image::Image;
use crate::rig::interrupt::until_told;
use crate::rig::members::{MIRROR, Members, ask, joined};
use crate::rig::net::{self, Host, Network, Plan, RunName, inside, remove_leftovers};
use crate::rig::process::Process;
use crate::rig::progress::Progress;
use crate::rig::rate::Rate;
use crate::rig::registry::{self, Registry};

/// In which the node that has seen the images makes their indexes.
const INDEX_PATIENCE: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The order in a round; (d) comes with the first.
const WAYS: [Way; 4] = [Way::Registry, Way::Mirror, Way::Lazy, Way::LazyWithoutFill];

/// Measures what the arguments ask for. Whatever it makes on the machine but the prepared images is gone when it
/// returns, also after SIGINT, SIGTERM and SIGHUP; what an earlier run left that was killed is removed at the start.
pub fn run(arguments: &LazyArguments) -> Result<LazyReport> {
    ensure!(rustix::process::geteuid().is_root(), "containers need root: run it with sudo");
    until_told(measure(arguments))
}

async fn measure(arguments: &LazyArguments) -> Result<LazyReport> {
    let progress = Progress::on_terminal();
    remove_leftovers()?;
    let images = images(arguments, &progress).await?;
    let name = RunName::new();
    let folder = Folder::make(name.folder())?;
    let mut results = Vec::new();
    for link in &arguments.links {
        results.extend(over(*link, arguments, &images, &name, &folder, &progress).await?);
    }
    let mut settings = vec![
        ("rounds".to_owned(), arguments.rounds.to_string()),
        ("processors".to_owned(), std::thread::available_parallelism().map_or(1, usize::from).to_string()),
    ];
    settings.extend(arguments.links.iter().zip(results.chunks(images.len())).filter_map(
        |(link, results)| {
            let goodput = results.first()?.goodput * 8.0 / 1e6;
            Some((format!("link of {link}"), format!("{goodput:.1} Mbit/s of content")))
        },
    ));
    Ok(LazyReport { command: String::new(), settings, notes: Vec::new(), results })
}

/// The images, made if need be.
async fn images(arguments: &LazyArguments, progress: &Progress) -> Result<Vec<Image>> {
    if !arguments.image.is_empty() {
        let own = arguments.image.iter().enumerate();
        return own.map(|(number, folder)| layout::read(folder, &format!("own{}", number + 1))).collect();
    }
    let step = progress.step("looking for the images".to_owned());
    let kept = Kept { folder: &arguments.prepared, step: &step };
    let mut images = Vec::new();
    for name in arguments.names() {
        images.push(layout::read(&kept.image(name).await?, &name.name())?);
    }
    step.finish_and_clear();
    Ok(images)
}

/// All starts over links of one rate.
async fn over(
    link: Rate,
    arguments: &LazyArguments,
    images: &[Image],
    name: &RunName,
    folder: &Folder,
    progress: &Progress,
) -> Result<Vec<LazyResult>> {
    let step = progress.step(format!("{link}: making the network"));
    let plan = Plan { nodes: MEASURED + 1, zones: 1, link, origin_link: link, zone_link: link };
    let folder = Folder::make(folder.path().join(link.to_string()))?;
    let network = Network::make(name.clone(), plan)?;
    step.set_message(format!("{link}: checking the links with plain TCP"));
    let goodput = net::measure(&network).await?;
    let origin = Registry::start(&network, Host::Origin, &folder.path().join("origin"), None).await?;
    step.set_message(format!("{link}: pushing the images"));
    registry::push(&network, images.to_vec()).await?;
    let members = Members::new(&network, folder.path())?;
    let scheduler = members.scheduler().await?;
    let mut holder = members.daemon(HOLDER, "")?;
    joined(&mut holder).await?;
    step.set_message(format!("{link}: letting a node see the images"));
    network.unshape()?;
    see(&network, images, &holder).await?;
    network.shape()?;
    let node = Node::make(&network, &folder.path().join("node")).await?;

    let bench = Bench { members: &members, node: &node, folder: folder.path() };
    let mut starts: Vec<Vec<(Way, Start)>> = vec![Vec::new(); images.len()];
    for round in 1..=arguments.rounds {
        for (image, starts) in images.iter().zip(&mut starts) {
            for way in WAYS {
                let tag = &image.reference;
                step.set_message(format!(
                    "{link}, round {round} of {}: {tag}, {}",
                    arguments.rounds,
                    way.text()
                ));
                starts.push((way, bench.start(image, way).await?));
            }
        }
    }
    step.finish_and_clear();
    drop((node, holder, scheduler, origin));
    Ok(images.iter().zip(starts).map(|(image, starts)| result(image, link, goodput.link, &starts)).collect())
}

/// Lets the node that holds them pull all images, and waits until it has their indexes.
async fn see(network: &Network, images: &[Image], holder: &Process) -> Result<()> {
    let namespace = network.namespace(Host::Node(HOLDER));
    for image in images {
        let pull = Pull {
            url: MIRROR.to_owned(),
            repository: image.repository.clone(),
            reference: image.reference.clone(),
            has: Vec::new(),
            start: Instant::now(),
        };
        inside(namespace.clone(), || pull.run())
            .await
            .with_context(|| format!("pull {}", image.reference))?;
    }
    let mut layers: Vec<_> =
        images.iter().flat_map(|image| &image.layers).map(|layer| layer.digest).collect();
    layers.sort_unstable_by_key(ToString::to_string);
    layers.dedup();
    let deadline = Instant::now() + INDEX_PATIENCE;
    loop {
        let metrics = ask(&namespace, "http://127.0.0.1:5105/metrics").await?;
        let declined = metric(&metrics, "shoal_indexes_declined_total")?;
        ensure!(declined == 0, "{declined} layers cannot be read lazily:\n{}", holder.tail());
        if metric(&metrics, "shoal_indexes_built_total")? >= layers.len() as u64 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("there are no indexes after {INDEX_PATIENCE:?}:\n{}", holder.tail());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn result(image: &Image, link: Rate, goodput: f64, starts: &[(Way, Start)]) -> LazyResult {
    let middle = |way: Way, figure: fn(&Start) -> Option<f64>| {
        let of_way = starts.iter().filter(|(other, _)| *other == way);
        median(of_way.filter_map(|(_, start)| figure(start)).collect())
    };
    let ready = |way| middle(way, |start| Some(start.ready_s));
    let read = |way| middle(way, |start| start.read_s);
    #[allow(clippy::cast_possible_truncation, reason = "the middle of two counts")]
    let bytes = |figure| middle(Way::LazyWithoutFill, figure) as u64;
    LazyResult {
        image: image.reference.clone(),
        link: link.to_string(),
        goodput,
        layer_bytes: image.layers.iter().map(|layer| layer.size).sum(),
        readiness_s: Readiness {
            a: ready(Way::Registry),
            b: ready(Way::Mirror),
            c: ready(Way::Lazy),
            d: middle(Way::Registry, |start| start.warm_s),
        },
        bytes_before_ready: bytes(|start| Some(start.range_bytes as f64)),
        link_bytes_before_ready: bytes(|start| Some(start.link_bytes as f64)),
        full_read_s: FullRead { a: read(Way::Registry), b: read(Way::Mirror), c: read(Way::Lazy) },
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = |at: usize| values.get(at).copied().unwrap_or_default();
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => middle(odd / 2),
        even => (middle(even / 2 - 1) + middle(even / 2)) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_even_number_lies_between_two() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
    }
}
