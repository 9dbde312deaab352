//! The process that mounts one layer on EROFS, and ends. See [`Mounter`] for why that is another process.

use std::io;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::sync::Arc;

use anyhow::Context;
use clap::{Args, ValueEnum};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rustix::process::{Signal, set_parent_process_death_signal};
use shoal_lazyfs::erofs::{ErofsMount, Mounter, mount};
use tokio::process::Command;

use super::AUTHORIZATION;

/// What of the kernel shows layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Driver {
    /// EROFS where this machine has it for files, else FUSE
    #[default]
    Auto,
    /// FUSE alone
    Fuse,
}

impl Driver {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fuse => "fuse",
        }
    }

    pub(super) fn mounter(self) -> Option<Arc<dyn Mounter>> {
        (self == Self::Auto).then(|| Arc::new(OwnProgram) as _)
    }
}

#[derive(Debug, Args)]
pub(crate) struct ErofsArguments {
    image: PathBuf,
    tar: PathBuf,
    at: PathBuf,
}

pub(crate) fn run(arguments: ErofsArguments) -> anyhow::Result<ExitCode> {
    // Nobody waits for it after the process that started it.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let ErofsArguments { image, tar, at } = arguments;
    let what = format!("cannot mount {} on {}", image.display(), at.display());
    mount(&ErofsMount { image, tar, at }).context(what)?;
    Ok(ExitCode::SUCCESS)
}

/// This program, with other arguments.
#[derive(Debug)]
struct OwnProgram;

impl Mounter for OwnProgram {
    fn mount(&self, mount: ErofsMount) -> BoxFuture<'static, io::Result<()>> {
        async move {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("fs-erofs").args([mount.image, mount.tar, mount.at]);
            command.stdin(Stdio::null()).env_remove(AUTHORIZATION).kill_on_drop(true);
            let output = command.output().await?;
            if output.status.success() {
                return Ok(());
            }
            let said = String::from_utf8_lossy(&output.stderr);
            Err(io::Error::other(said.trim().to_owned()))
        }
        .boxed()
    }
}
