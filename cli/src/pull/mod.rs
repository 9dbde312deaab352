//! `shoal pull`: pulls an image through a node, as a container client would, and checks every byte.

mod client;
mod image;
mod layout;
mod progress;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;

pub(crate) use client::{PullReport, Puller, http_client};
pub(crate) use image::{ImageName, host_platform};
pub(crate) use layout::Layout;
pub(crate) use progress::Progress;

#[derive(Debug, Args)]
pub(crate) struct PullArguments {
    /// As clients name it: alpine, quay.io/team/app:v2, registry.example.com:5000/app@sha256:…
    image: ImageName,
    /// The node's mirror
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5100")]
    node: String,
    /// OCI layout folder to write the image to; without one its bytes are checked and dropped
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Which image of an index, as os/architecture
    #[arg(long, default_value_t = image::host_platform())]
    platform: String,
    /// Print a report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    image: String,
    digest: &'a str,
    bytes: u64,
    blobs: usize,
    seconds: f64,
    bytes_by_source: &'a std::collections::BTreeMap<String, u64>,
}

pub(crate) fn run(arguments: PullArguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(pull(arguments))
}

async fn pull(arguments: PullArguments) -> anyhow::Result<ExitCode> {
    let layout = arguments.output.as_deref().map(Layout::create).transpose()?;
    let progress = if arguments.json { Progress::hidden() } else { Progress::on_terminal() };
    let puller = Puller::new(&arguments.node, arguments.platform.clone(), layout, progress)?;
    let report = puller
        .pull(&arguments.image)
        .await
        .with_context(|| format!("cannot pull {} through {}", arguments.image, arguments.node))?;
    if arguments.json {
        let report = Report {
            image: arguments.image.to_string(),
            digest: &report.digest,
            bytes: report.bytes,
            blobs: report.blobs,
            seconds: report.elapsed.as_secs_f64(),
            bytes_by_source: &report.by_source,
        };
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{}@{}", arguments.image, report.digest);
        let sources: Vec<String> =
            report.by_source.iter().map(|(name, bytes)| format!("{} {name}", ByteSize::b(*bytes))).collect();
        println!(
            "{} blobs, {} in {:.1} s ({}); all digests match",
            report.blobs,
            ByteSize::b(report.bytes),
            report.elapsed.as_secs_f64(),
            sources.join(", ")
        );
    }
    Ok(ExitCode::SUCCESS)
}
