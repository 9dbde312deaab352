//! `shoal mount`: an image as a folder, read as far as somebody reads it.
//!
//! This process mounts and unmounts, and keeps the mount's descriptor; [another one](crate::fs::image) serves the
//! files.

mod origin;
pub(crate) mod scratch;

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;
use shoal_lazyfs::fs::EMPTY;
use shoal_lazyfs::fuse::Device;
use shoal_lazyfs::overlay;

use crate::fs::{Driver, Keeper};
use crate::log::{self, LogFormat};
use crate::pull;
use crate::serve::{self, Stop};
use origin::Origin;
use scratch::Scratch;

#[derive(Debug, Args)]
pub(crate) struct MountArguments {
    /// As clients name it, from the node; or in an OCI layout folder: oci:FOLDER, oci:FOLDER:TAG where it holds
    /// several
    image: String,
    /// An existing folder to mount it on
    folder: PathBuf,
    /// The socket of the node's daemon
    #[arg(long, value_name = "FILE", default_value = "/var/lib/shoal/lazy.sock")]
    socket: PathBuf,
    /// Which image of a folder's index, as os/architecture; a node gives the one for this machine
    #[arg(long, default_value_t = pull::host_platform(), value_parser = pull::platform)]
    platform: String,
    /// Where to keep what was read, for the next time; by default it is dropped at the end
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Read all of it in the background, and check it as a whole
    #[arg(long)]
    eager: bool,
    /// What shows the files of layers
    #[arg(long, value_enum, default_value_t)]
    driver: Driver,
    #[arg(long, value_enum, default_value_t)]
    log: LogFormat,
}

pub(crate) fn run(arguments: MountArguments) -> anyhow::Result<ExitCode> {
    log::start(arguments.log);
    ensure!(rustix::process::geteuid().is_root(), "only root can mount; try sudo shoal mount");
    let folder = arguments.folder.canonicalize();
    let folder = folder.with_context(|| format!("cannot mount on {}", arguments.folder.display()))?;
    ensure!(folder.is_dir(), "{} is no folder", folder.display());
    ensure!(
        !shows_layers(&folder)?,
        "on {} an image, or something else of overlayfs, is mounted already: unmount it first, or name another folder",
        folder.display()
    );
    let runtime = serve::runtime()?;
    let done = runtime.block_on(mount(&arguments, &folder));
    runtime.shutdown_timeout(serve::BLOCKING_MAY_LAST);
    done
}

/// Whether overlayfs is mounted right there.
fn shows_layers(folder: &Path) -> anyhow::Result<bool> {
    /// As `statfs` has it (linux/magic.h).
    const OVERLAYFS: i64 = 0x794c_7630;
    let Some(parent) = folder.parent() else { return Ok(false) };
    let is_mount = folder.metadata()?.dev() != parent.metadata()?.dev();
    Ok(is_mount && rustix::fs::statfs(folder)?.f_type == OVERLAYFS)
}

async fn mount(arguments: &MountArguments, folder: &Path) -> anyhow::Result<ExitCode> {
    let origin = Origin::of(arguments).await?;
    // From here on a signal ends it in order: nothing stays mounted.
    let mut stop = Stop::listen()?;
    let scratch = Scratch::new()?;
    let below = scratch.layers();
    let device = Device::mount(&below).context("cannot mount a FUSE filesystem (modprobe fuse may help)")?;
    let mounting = async {
        let (keeper, folders) = Keeper::start(device, server(scratch.path(), &origin, arguments)).await?;
        // overlayfs takes no single folder: an empty one is below all.
        let layers = folders.split_whitespace().map(|folder| scratch.path().join(folder));
        let lower: Vec<_> = [below.join(EMPTY)].into_iter().chain(layers).collect();
        overlay::mount(&lower, folder)?;
        anyhow::Ok(keeper)
    };
    let mounted = tokio::select! {
        mounted = mounting => mounted,
        () = stop.told() => Err(anyhow::anyhow!("stopped before it was mounted")),
    };
    // What is mounted over them holds them; else they end here.
    scratch.unmount_layers()?;
    let keeper = mounted?;
    crate::output::line(&format!(
        "{} is mounted on {} ({} layers); Ctrl-C or umount ends it",
        arguments.image,
        folder.display(),
        origin.layers.len()
    ))?;
    until_unmounted(folder, keeper, &mut stop).await
}

/// The command line of the process that serves the files.
fn server(scratch: &Path, origin: &Origin, arguments: &MountArguments) -> Vec<OsString> {
    let cache = arguments.cache.clone().unwrap_or_else(|| scratch.join("cache"));
    let mut all: Vec<OsString> = vec!["fs-image".into(), "--cache".into(), cache.into()];
    all.extend(["--scratch".into(), scratch.into()]);
    all.extend(origin.arguments.iter().cloned());
    all.extend(arguments.eager.then(|| "--eager".into()));
    all.extend(["--driver".into(), arguments.driver.name().into()]);
    all.extend(["--log".into(), arguments.log.name().into()]);
    all.extend(origin.layers.iter().map(|layer| layer.to_string().into()));
    all
}

/// Waits for a signal and unmounts, or until somebody else did; then until the last reader is gone, or a second
/// signal.
async fn until_unmounted(folder: &Path, mut keeper: Keeper, stop: &mut Stop) -> anyhow::Result<ExitCode> {
    tokio::select! {
        () = stop.told() => {}
        ended = keeper.ended() => {
            if ended.is_err() {
                // Nobody can read it any more.
                overlay::unmount(folder)?;
            }
            return ended.map(|()| ExitCode::SUCCESS);
        }
    }
    let unused = overlay::unmount(folder).with_context(|| format!("cannot unmount {}", folder.display()))?;
    if !unused {
        tracing::warn!(
            "{} is still in use; waiting for the last reader, or a second signal",
            folder.display()
        );
    }
    tokio::select! {
        () = stop.told() => {}
        ended = keeper.ended() => ended?,
    }
    Ok(ExitCode::SUCCESS)
}
