//! The process that serves the filesystem of `shoal fs`, and containerd. All it knows is on disk, and whoever waits
//! for it waits for its successor: readers in the kernel, containerd at a socket that the process before it holds.

use std::io::{Write as _, stdout};
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use rustix::process::{Signal, set_parent_process_death_signal};
use shoal_lazyfs::fuse::{Device, FuseMount};
use shoal_lazyfs::link::Link;
use shoal_lazyfs::snapshots::{self, Snapshotter};

use super::service::FsArguments;
use super::{device, outlast_signals};
use crate::{log, serve};

#[derive(Debug, Args)]
pub(crate) struct SnapshotsArguments {
    /// The descriptor of a socket that listens
    #[arg(long, value_name = "NUMBER")]
    listener: RawFd,
    #[command(flatten)]
    service: FsArguments,
}

/// Serves until the mount is gone. Says on the standard output, in one line, that it does.
pub(crate) fn run(arguments: SnapshotsArguments) -> anyhow::Result<ExitCode> {
    log::start(arguments.service.log);
    // Only one process uses the state, and the one that keeps the mount starts the next.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let device = device()?;
    let runtime = serve::runtime()?;
    let done = runtime.block_on(serve(&arguments, device));
    runtime.shutdown_timeout(serve::BLOCKING_MAY_LAST);
    done
}

async fn serve(arguments: &SnapshotsArguments, device: Device) -> anyhow::Result<ExitCode> {
    let _told = outlast_signals()?;
    let listener = tokio::net::UnixListener::from_std(inherited(arguments.listener)?);
    let listener = listener.context("there is no socket to listen on")?;
    let FsArguments { node, driver, .. } = &arguments.service;
    let (places, policy) = (arguments.service.places(), arguments.service.policy());
    let opened = Snapshotter::open(places, Link::open(node), policy, driver.mounter()).await;
    let snapshotter = opened.context("cannot show what was shown before")?;
    if let Some(disk) = arguments.service.disk {
        snapshotter.images().cache().limit_disk(disk.as_u64());
    }
    let fs = snapshotter.images().fs().clone();
    let served = FuseMount::serve(fs, &device).context("cannot serve the mount")?;
    writeln!(stdout(), "serving")?;
    let resuming = snapshotter.clone();
    tokio::spawn(async move { resuming.resume().await });
    tokio::spawn(snapshotter.clone().report());
    tokio::select! {
        ended = snapshots::serve(listener, snapshotter) => {
            ended?;
            bail!("containerd's socket is closed");
        }
        unmounted = tokio::task::spawn_blocking(move || served.join()) => unmounted??,
    }
    Ok(ExitCode::SUCCESS)
}

#[allow(unsafe_code, reason = "the socket comes by its number")]
fn inherited(listener: RawFd) -> anyhow::Result<UnixListener> {
    // SAFETY: whoever started this process opened it for this, and nothing else here knows the number.
    let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(listener) });
    listener.local_addr().context("the descriptor is no socket")?;
    listener.set_nonblocking(true)?;
    // It is inherited by no process that this one starts.
    rustix::io::fcntl_setfd(&listener, rustix::io::FdFlags::CLOEXEC)?;
    Ok(listener)
}
