//! `shoal fs`: the process that serves a mount which another one made and keeps. If this one dies, the next one goes
//! on where it was, and readers only wait.

mod index;
mod layout;

use std::io::{Write as _, stdin, stdout};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use shoal_lazyfs::fill::{Pace, fill};
use shoal_lazyfs::fuse::{Device, FuseMount};
use shoal_lazyfs::images::Images;
use shoal_lazyfs::link::{Link, Served};
use shoal_lazyfs::source::{ClaimedIndex, LayerSource};
use shoal_lazyfs::span_cache::Patience;
use shoal_proto::Digest;
use tokio::signal::unix::{SignalKind, signal};

use crate::log::{self, LogFormat};
use crate::serve;
pub(crate) use index::argument as index_argument;
pub(crate) use layout::LayoutSource;

/// The kernel's INIT, in hex; the descriptor of the mount is the standard input.
pub(crate) const INIT: &str = "SHOAL_FUSE_INIT";

/// Who asks for the image: the value of an `Authorization` header. Not on the command line, where others read it.
pub(crate) const AUTHORIZATION: &str = "SHOAL_AUTHORIZATION";

#[derive(Debug, Args)]
pub(crate) struct FsArguments {
    /// Where what was read is kept
    #[arg(long, value_name = "DIR")]
    pub cache: PathBuf,
    /// The OCI layout folder that holds the layers
    #[arg(long, value_name = "DIR", required_unless_present = "socket")]
    pub layout: Option<PathBuf>,
    /// The socket of the daemon that has the layers
    #[arg(long, value_name = "FILE", requires = "image")]
    pub socket: Option<PathBuf>,
    /// The image through which they are read, as the daemon named it
    #[arg(long)]
    pub image: Option<String>,
    /// Of each layer, which index it has
    #[arg(long, value_name = "ID@LEN@DIGEST", value_parser = index::parse)]
    pub index: Vec<ClaimedIndex>,
    /// Read all of it in the background
    #[arg(long)]
    pub eager: bool,
    #[arg(long, value_enum, default_value_t)]
    pub log: LogFormat,
    /// Layers to show, each over those before it
    pub layers: Vec<Digest>,
}

/// Serves until the mount is gone. Says on the standard output, in one line, which folders show the layers.
pub(crate) fn run(arguments: FsArguments) -> anyhow::Result<ExitCode> {
    log::start(arguments.log);
    let init = std::env::var(INIT).ok().and_then(|text| hex::decode(text).ok());
    let init = init.context("this is started by shoal mount, not by hand")?;
    let descriptor = stdin().as_fd().try_clone_to_owned().context("no mount to serve")?;
    let device = Device::from_parts(descriptor, init);
    let runtime = serve::runtime()?;
    let done = runtime.block_on(serve(arguments, device));
    runtime.shutdown_timeout(serve::BLOCKING_MAY_LAST);
    done
}

fn source(arguments: &FsArguments) -> Arc<dyn LayerSource> {
    let (Some(socket), Some(image)) = (&arguments.socket, &arguments.image) else {
        return Arc::new(LayoutSource::new(arguments.layout.as_deref().unwrap_or(Path::new("."))));
    };
    let link = Link::open(socket);
    let authorization = std::env::var(AUTHORIZATION).ok();
    for (layer, index) in arguments.layers.iter().zip(&arguments.index) {
        let (image, authorization) = (image.clone(), authorization.clone());
        link.serve(*layer, Served { image, index: *index, authorization });
    }
    Arc::new(link)
}

async fn serve(arguments: FsArguments, device: Device) -> anyhow::Result<ExitCode> {
    // Whoever stops a service tells all of its processes. This one ends when the mount does, not before its readers.
    let _told = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let images = Images::open(&arguments.cache, source(&arguments), Patience::default()).await?;
    let slots = images.add(&arguments.layers).await?;
    let served = FuseMount::serve(images.fs().clone(), &device).context("cannot serve the mount")?;
    let names: Vec<_> = slots.iter().map(|slot| slot.0.to_string()).collect();
    writeln!(stdout(), "{}", names.join(" "))?;
    if arguments.eager {
        tokio::spawn(fill(images.layers(&slots), Pace::EAGER));
    }
    tokio::task::spawn_blocking(move || served.join()).await??;
    Ok(ExitCode::SUCCESS)
}
