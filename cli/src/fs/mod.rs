//! The processes with filesystems. One mounts and keeps the mount's descriptor: `shoal fs` for containers, `shoal
//! mount` for an image. Another one, its child, serves the files and may die: the next one goes on where it was, and
//! readers only wait. So nothing in a process that keeps a mount may look into it: it would wait for its own child.

pub(crate) mod erofs;
pub(crate) mod image;
mod index;
mod keeper;
mod layout;
pub(crate) mod service;
pub(crate) mod snapshots;
mod systemd;

use std::io::stdin;
use std::os::fd::AsFd as _;

use anyhow::Context;
use shoal_lazyfs::fuse::Device;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) use erofs::Driver;
pub(crate) use index::argument as index_argument;
pub(crate) use keeper::Keeper;
pub(crate) use layout::LayoutSource;

/// The kernel's INIT, in hex; the descriptor of the mount is the standard input.
const INIT: &str = "SHOAL_FUSE_INIT";

/// Who asks for the image: the value of an `Authorization` header. Not on the command line, where others read it.
pub(crate) const AUTHORIZATION: &str = "SHOAL_AUTHORIZATION";

/// The mount that this process is to serve.
fn device() -> anyhow::Result<Device> {
    let init = std::env::var(INIT).ok().and_then(|text| hex::decode(text).ok());
    let init = init.context("this is started by another process of shoal, not by hand")?;
    let descriptor = stdin().as_fd().try_clone_to_owned().context("no mount to serve")?;
    Ok(Device::from_parts(descriptor, init))
}

/// Whoever stops a service tells all of its processes. One that serves ends when the mount does, not before its
/// readers.
fn outlast_signals() -> anyhow::Result<(Signal, Signal)> {
    Ok((signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?))
}
