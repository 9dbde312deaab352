//! The process that serves one image for `shoal mount`.

use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use shoal_lazyfs::fill::{FillRate, Pace, fill};
use shoal_lazyfs::fs::SlotNumber;
use shoal_lazyfs::fuse::{Device, FuseMount};
use shoal_lazyfs::images::Images;
use shoal_lazyfs::layer_folders::LayerFolders;
use shoal_lazyfs::link::{Authorization, Link, Served};
use shoal_lazyfs::mountinfo;
use shoal_lazyfs::source::{ClaimedIndex, LayerSource};
use shoal_lazyfs::span_cache::Patience;
use shoal_proto::Digest;
use tokio::sync::oneshot;

use super::{AUTHORIZATION, Driver, LayoutSource, device, index, outlast_signals};
use crate::log::{self, LogFormat};
use crate::mount::scratch;
use crate::serve;

#[derive(Debug, Args)]
pub(crate) struct ImageArguments {
    /// Where what was read is kept
    #[arg(long, value_name = "DIR")]
    pub cache: PathBuf,
    /// The folder of the process that mounts, to be cleared after it if it is killed
    #[arg(long, value_name = "DIR")]
    pub scratch: PathBuf,
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
    /// What shows the files of layers
    #[arg(long, value_enum, default_value_t)]
    pub driver: Driver,
    #[arg(long, value_enum, default_value_t)]
    pub log: LogFormat,
    /// Layers to show, each over those before it
    pub layers: Vec<Digest>,
}

/// Serves until the mount is gone. Says on the standard output, in one line, which folders show the layers.
pub(crate) fn run(arguments: ImageArguments) -> anyhow::Result<ExitCode> {
    log::start(arguments.log);
    let device = device()?;
    let runtime = serve::runtime()?;
    let done = runtime.block_on(serve(arguments, device));
    runtime.shutdown_timeout(serve::BLOCKING_MAY_LAST);
    done
}

/// Where the layers come from, and the folder that they are in, if that is where.
fn source(arguments: &ImageArguments) -> (Arc<dyn LayerSource>, Option<Arc<LayoutSource>>) {
    let (Some(socket), Some(image)) = (&arguments.socket, &arguments.image) else {
        let folder = LayoutSource::new(arguments.layout.as_deref().unwrap_or(Path::new(".")));
        let folder = Arc::new(folder);
        return (folder.clone(), Some(folder));
    };
    let link = Link::open(socket);
    let authorization = std::env::var(AUTHORIZATION).ok().map(Authorization::new);
    for (layer, index) in arguments.layers.iter().zip(&arguments.index) {
        let (image, authorization) = (image.clone(), authorization.clone());
        link.serve(*layer, Served { image, index: *index, authorization, borrowed: false });
    }
    (Arc::new(link), None)
}

async fn serve(arguments: ImageArguments, device: Device) -> anyhow::Result<ExitCode> {
    let _told = outlast_signals()?;
    let _alive = scratch::hold(&arguments.scratch)?.context("the process that mounts is gone")?;
    let (source, folder) = source(&arguments);
    let images = Images::open(&arguments.cache, source, Patience::default()).await?;
    if let Some(folder) = folder {
        folder.build(arguments.layers.iter().filter(|layer| !images.cache().holds(layer))).await;
    }
    let slots = images.add(&arguments.layers).await?;
    let served = FuseMount::serve(images.fs().clone(), &device).context("cannot serve the mount")?;
    writeln!(stdout(), "{}", folders(&arguments, &images, &slots).await?.join(" "))?;
    if arguments.eager {
        let layers = images.layers(&slots);
        tokio::spawn(async move { fill(layers, Pace::EAGER, &FillRate::default()).await });
    }
    let mut ended = tokio::task::spawn_blocking(move || served.join());
    let (orphan, orphaned) = oneshot::channel();
    // Not the runtime's: it would wait for it at the end.
    thread::Builder::new().name("shoal-parent".into()).spawn(move || orphan.send(parent_is_gone()))?;
    tokio::select! {
        ended = &mut ended => ended??,
        orphaned = orphaned => {
            orphaned??;
            tracing::warn!("the process that mounts is gone; unmounting");
            let scratch = arguments.scratch;
            let folder = scratch.clone();
            tokio::task::spawn_blocking(move || scratch::unmount(&folder)).await??;
            ended.await??;
            drop(images);
            std::fs::remove_dir_all(&scratch)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the layers are, in the folder of the process that mounts.
async fn folders(
    arguments: &ImageArguments,
    images: &Images,
    slots: &[SlotNumber],
) -> anyhow::Result<Vec<String>> {
    let [fuse, erofs, kept] =
        [scratch::LAYERS, scratch::EROFS, "images"].map(|name| arguments.scratch.join(name));
    // If it is not, overlayfs is mounted over the layers already, and this process follows another one.
    let mounter = arguments.driver.mounter().filter(|_| mountinfo::is_mounted(&fuse).unwrap_or(false));
    let folders = LayerFolders::open(images.fs().clone(), fuse, erofs, kept, mounter)?;
    folders.mount(slots.iter().copied()).await;
    let within = |slot: &SlotNumber| {
        let folder = folders.folder(*slot);
        Ok(folder.strip_prefix(&arguments.scratch)?.display().to_string())
    };
    slots.iter().map(within).collect()
}

/// Returns when the process that started this one cannot unmount any more. It holds the other end of the standard output
/// as long as it lives. Blocks.
fn parent_is_gone() -> std::io::Result<()> {
    let output = stdout();
    // That there is nobody to read is told whatever is asked for.
    let mut ends = [PollFd::new(&output, PollFlags::empty())];
    loop {
        match poll(&mut ends, None) {
            Ok(1..) => return Ok(()),
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
