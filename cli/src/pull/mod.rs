//! `shoal pull`: pulls an image through a node, as a container client would, and checks every byte.

mod client;
mod image;
mod layout;
mod progress;

use std::io::{BufRead, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;

pub(crate) use client::{Login, PullReport, Puller, http_client};
pub(crate) use image::{host_and_port, host_platform, platform};
pub(crate) use layout::Layout;
pub(crate) use progress::Progress;
pub(crate) use shoal_proto::ImageName;

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
    #[arg(long, default_value_t = image::host_platform(), value_parser = image::platform)]
    platform: String,
    /// Account at the image's registry, NAME or NAME:PASSWORD; without a password it is read from the variable
    /// SHOAL_PASSWORD or else from standard input. It goes to the node unencrypted
    #[arg(long, value_name = "NAME[:PASSWORD]")]
    user: Option<String>,
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

/// The longest password that is read: tokens of cloud registries have a few KiB.
const MAX_PASSWORD: u64 = 64 << 10;

fn login(user: &str) -> anyhow::Result<Login> {
    if let Some((user, password)) = user.split_once(':') {
        return Ok(Login { user: user.to_owned(), password: password.to_owned() });
    }
    let password = match std::env::var("SHOAL_PASSWORD") {
        Ok(password) => password,
        Err(_) => {
            let mut line = String::new();
            let input = std::io::stdin().lock().take(MAX_PASSWORD);
            std::io::BufReader::new(input).read_line(&mut line).context("cannot read the password")?;
            line.trim_end_matches(['\r', '\n']).to_owned()
        }
    };
    ensure!(
        !password.is_empty(),
        "no password for {user}: set SHOAL_PASSWORD, or write it to standard input"
    );
    Ok(Login { user: user.to_owned(), password })
}

async fn pull(arguments: PullArguments) -> anyhow::Result<ExitCode> {
    let layout = arguments.output.as_deref().map(Layout::create).transpose()?;
    let progress = if arguments.json { Progress::hidden() } else { Progress::on_terminal() };
    let login = arguments.user.as_deref().map(login).transpose()?;
    let puller = Puller::new(&arguments.node, arguments.platform.clone(), layout, progress)?.login(login);
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
        crate::output::line(&serde_json::to_string(&report)?)?;
    } else {
        if let Some(platform) = &report.other_platform {
            eprintln!(
                "shoal: warning: the image is for {platform} only, not for {}; pulled all the same",
                arguments.platform
            );
        }
        let sources: Vec<String> =
            report.by_source.iter().map(|(name, bytes)| format!("{} {name}", ByteSize::b(*bytes))).collect();
        crate::output::line(&format!(
            "{}@{}\n{} blobs, {} in {:.1} s (by each first byte: {}); all digests match",
            arguments.image,
            report.digest,
            report.blobs,
            ByteSize::b(report.bytes),
            report.elapsed.as_secs_f64(),
            sources.join(", ")
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
