//! `shoal demo`: a scheduler, an origin and some nodes on this machine, all real processes but for the origin; every
//! node pulls the same image at the same moment.

mod cluster;
mod origin;
mod report;
mod sample;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, bail};
use bytesize::ByteSize;
use clap::Args;

use crate::pull::{ImageName, Progress, Puller};
use cluster::{Cluster, Registry};
use origin::Origin;
use report::{NodeReport, Report};

#[derive(Debug, Args)]
pub(crate) struct DemoArguments {
    /// How many nodes pull
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=32))]
    nodes: u8,
    /// Pull this image from its own registry instead of an embedded one
    #[arg(long, value_name = "REF")]
    image: Option<ImageName>,
    /// Size of the embedded image's largest layer
    #[arg(long, default_value = "200MiB", value_parser = size)]
    size: ByteSize,
    /// Which image of an index, as os/architecture
    #[arg(long, default_value_t = crate::pull::host_platform(), value_parser = crate::pull::platform)]
    platform: String,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// The image is made in memory.
const LARGEST: ByteSize = ByteSize::gib(4);

fn size(text: &str) -> Result<ByteSize, String> {
    let size = text.parse::<ByteSize>().map_err(|_| "write a size such as 200MiB".to_owned())?;
    if size > LARGEST { Err(format!("at most {LARGEST}: the image is made in memory")) } else { Ok(size) }
}

pub(crate) fn run(arguments: DemoArguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            done = demo(arguments) => done,
            // What was started ends with this future, and its folder goes.
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })
}

async fn demo(arguments: DemoArguments) -> anyhow::Result<ExitCode> {
    let say = |text: &str| {
        if !arguments.json {
            // Whoever closed the pipe has seen enough; the report tells whether all went well.
            let _ = crate::output::line(text);
        }
    };
    let (origin, image, registry) = match &arguments.image {
        Some(image) => (None, image.clone(), Registry::of(image)),
        None => {
            say(&format!("making an image whose largest layer has {}", arguments.size));
            let sample = sample::make(arguments.size.as_u64())?;
            let origin = Origin::start(sample).await?;
            let registry = origin.registry();
            (Some(origin), origin::IMAGE.parse()?, registry)
        }
    };
    let plural = if arguments.nodes == 1 { "" } else { "s" };
    say(&format!("starting a scheduler and {} node{plural}", arguments.nodes));
    let cluster = Cluster::start(arguments.nodes, &registry).await?;
    say(&format!("every node pulls {image} now"));
    let started = Instant::now();
    let pulls = cluster.nodes().iter().map(|node| {
        let (mirror, platform, image) = (node.mirror.clone(), arguments.platform.clone(), image.clone());
        tokio::spawn(
            async move { Puller::new(&mirror, platform, None, Progress::hidden())?.pull(&image).await },
        )
    });
    let pulls: Vec<_> = pulls.collect();
    let mut pulled = Vec::new();
    for pull in pulls {
        pulled.push(pull.await.context("a pull panicked")?);
    }
    let elapsed = started.elapsed();
    let mut nodes = Vec::new();
    for (node, pulled) in cluster.nodes().iter().zip(pulled) {
        nodes.push(NodeReport::new(node.name.clone(), pulled, &node.status().await?));
    }
    let report = Report::new(image.to_string(), nodes, elapsed, origin.as_ref().map(Origin::log));
    if arguments.json {
        crate::output::line(&serde_json::to_string_pretty(&report)?)?;
    } else {
        crate::output::line(report.to_string().trim_end())?;
    }
    if report.all_match {
        return Ok(ExitCode::SUCCESS);
    }
    cluster.print_warnings();
    Ok(ExitCode::FAILURE)
}
