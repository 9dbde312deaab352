//! A whole run: the images, and for each link the network, the node that has seen them, and all starts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::arguments::LazyArguments;
use super::identity::differences;
use super::layers::Layers;
use super::layout;
use super::measure::{Bench, Inspection, Start, Subject, Way, apart, metric};
use super::needs;
use super::node::{HOLDER, MEASURED, Node};
use super::prepare::Kept;
use super::report::{FullRead, LazyReport, LazyResult, Readiness, aims};
use crate::rate::Rate;
use crate::report::debug_build;
use crate::rig::client::Pull;
use crate::rig::folder::Folder;
use crate::rig::image::Image;
use crate::rig::interrupt::until_told;
use crate::rig::members::{MIRROR, Members, ask, joined};
use crate::rig::net::{self, Host, Network, Plan, RunName, inside, remove_leftovers};
use crate::rig::process::Process;
use crate::rig::progress::Progress;
use crate::rig::registry::{self, Registry};

/// In which the node that has seen the images makes their indexes.
const INDEX_PATIENCE: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The order in a round; (d) comes with the first.
const WAYS: [Way; 4] = [Way::Registry, Way::Mirror, Way::Lazy, Way::LazyWithoutFill];

/// Measures what the arguments ask for. Whatever it makes on the machine but the prepared images is gone when it
/// returns, also after SIGINT, SIGTERM and SIGHUP; what an earlier run left that was killed is removed at the start.
pub fn run(arguments: &LazyArguments) -> Result<LazyReport> {
    needs::check(&std::env::temp_dir())?;
    until_told(measure(arguments))
}

async fn measure(arguments: &LazyArguments) -> Result<LazyReport> {
    let progress = Progress::on_terminal();
    remove_leftovers()?;
    let subjects = subjects(arguments, &progress).await?;
    let name = RunName::new()?;
    let folder = Folder::make(name.folder())?;
    let (mut results, mut notes) = (Vec::new(), Vec::from_iter(debug_build()));
    for link in &arguments.links {
        let (found, problem) = over(*link, arguments, &subjects, &name, &folder, &progress).await?;
        results.extend(found);
        notes.extend(problem);
    }
    let mut settings = vec![
        ("rounds".to_owned(), arguments.rounds.to_string()),
        ("processors".to_owned(), std::thread::available_parallelism().map_or(1, usize::from).to_string()),
    ];
    settings.extend(arguments.links.iter().zip(results.chunks(subjects.len())).filter_map(
        |(link, results)| {
            let goodput = results.first()?.goodput * 8.0 / 1e6;
            Some((format!("link of {link}"), format!("{goodput:.1} Mbit/s of content")))
        },
    ));
    Ok(LazyReport { command: String::new(), settings, notes, results })
}

/// The images, made if need be, and their indexes.
async fn subjects(arguments: &LazyArguments, progress: &Progress) -> Result<Vec<Subject>> {
    let images = images(arguments, progress).await?;
    let step = progress.step("making the layers' indexes".to_owned());
    let subjects = apart(move |_| {
        images.into_iter().map(|image| Ok(Subject { layers: Layers::of(&image)?, image })).collect()
    });
    let subjects = subjects.await;
    step.finish_and_clear();
    subjects
}

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

/// All starts over links of one rate, and what was wrong with the links, if anything was.
async fn over(
    link: Rate,
    arguments: &LazyArguments,
    subjects: &[Subject],
    name: &RunName,
    folder: &Folder,
    progress: &Progress,
) -> Result<(Vec<LazyResult>, Option<String>)> {
    let step = progress.step(format!("{link}: making the network"));
    let plan = Plan { nodes: MEASURED + 1, zones: 1, link, origin_link: link, zone_link: link };
    let folder = Folder::make(folder.path().join(link.to_string()))?;
    let network = Network::make(name.clone(), plan)?;
    step.set_message(format!("{link}: checking the links with plain TCP"));
    let goodput = net::measure(&network).await?;
    let origin = Registry::start(&network, Host::Origin, &folder.path().join("origin"), None).await?;
    step.set_message(format!("{link}: pushing the images"));
    let images: Vec<Image> = subjects.iter().map(|subject| subject.image.clone()).collect();
    registry::push(&network, images.clone()).await?;
    let members = Members::new(&network, folder.path())?;
    let scheduler = members.scheduler().await?;
    let mut holder = members.daemon(HOLDER, "")?;
    joined(&mut holder).await?;
    step.set_message(format!("{link}: letting a node see the images"));
    network.unshape()?;
    see(&network, &images, &holder).await?;
    network.shape()?;
    let node = Node::make(&network, &folder.path().join("node")).await?;

    let bench = Bench { members: &members, node: &node, folder: folder.path() };
    let mut found: Vec<(Vec<(Way, Start)>, Inspection)> = Vec::new();
    found.resize_with(subjects.len(), Default::default);
    for round in 1..=arguments.rounds {
        for (subject, (starts, inspection)) in subjects.iter().zip(&mut found) {
            for way in WAYS {
                let (tag, rounds) = (&subject.image.reference, arguments.rounds);
                step.set_message(format!("{link}, round {round} of {rounds}: {tag}, {}", way.text()));
                let inspection = (round == 1).then_some(&mut *inspection);
                starts.push((way, bench.start(subject, way, inspection).await?));
            }
        }
    }
    step.finish_and_clear();
    drop((node, holder, scheduler, origin));
    let found = subjects.iter().zip(&found);
    let results = found
        .map(|(subject, (starts, inspection))| result(subject, link, goodput.link, starts, inspection))
        .collect::<Result<_>>()?;
    Ok((results, goodput.problem(&plan)))
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

fn result(
    subject: &Subject,
    link: Rate,
    goodput: f64,
    starts: &[(Way, Start)],
    inspection: &Inspection,
) -> Result<LazyResult> {
    let middle = |way: Way, figure: fn(&Start) -> Option<f64>| {
        let of_way = starts.iter().filter(|(other, _)| *other == way);
        median(of_way.filter_map(|(_, start)| figure(start)).collect())
    };
    let ready = |way| middle(way, |start| Some(start.ready_s));
    let read = |way| middle(way, |start| start.read_s);
    #[allow(clippy::cast_possible_truncation, reason = "the middle of two counts")]
    let bytes = |figure| middle(Way::LazyWithoutFill, figure) as u64;
    let Inspection { unpacked: Some(unpacked), shown: Some(shown), touched: Some(touched) } = inspection
    else {
        bail!("{} was not looked at", subject.image.reference);
    };
    let cost = subject.layers.cost(touched)?;
    let warm = middle(Way::Registry, |start| start.warm_s);
    let mut result = LazyResult {
        image: subject.image.reference.clone(),
        link: link.to_string(),
        goodput,
        layer_bytes: subject.image.layers.iter().map(|layer| layer.size).sum(),
        index_bytes: subject.layers.index_bytes(),
        readiness_s: Readiness {
            a: ready(Way::Registry),
            b: ready(Way::Mirror),
            c: ready(Way::Lazy),
            d: warm,
        },
        readiness_limit_s: 1.5 * warm + 0.5 + cost.bytes as f64 / goodput + cost.inflate_s,
        bytes_before_ready: bytes(|start| Some(start.range_bytes as f64)),
        link_bytes_before_ready: bytes(|start| Some(start.link_bytes as f64)),
        bytes_touched: cost.bytes,
        inflate_touched_s: cost.inflate_s,
        full_read_s: FullRead { a: read(Way::Registry), b: read(Way::Mirror), c: read(Way::Lazy) },
        differences: differences(shown, unpacked, |folder| subject.layers.only_implied(folder)),
        aims: Vec::new(),
    };
    result.aims = aims(&result, link);
    Ok(result)
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
