//! The process that serves the mount, started anew if it dies.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use shoal_lazyfs::fuse::Device;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::MountArguments;
use super::origin::Origin;
use crate::fs::INIT;

/// Deaths in a minute after which it is not started again: something kills it each time.
const MAX_DEATHS: usize = 5;
const MINUTE: Duration = Duration::from_secs(60);

pub(super) struct Server {
    device: Device,
    arguments: Vec<std::ffi::OsString>,
    child: Child,
    /// The folders of the layers below the mount, lowest first.
    pub(super) folders: Vec<String>,
    deaths: Vec<Instant>,
}

impl Server {
    pub(super) async fn start(
        device: Device,
        cache: &Path,
        origin: &Origin,
        arguments: &MountArguments,
    ) -> anyhow::Result<Self> {
        let mut all: Vec<std::ffi::OsString> = vec!["fs".into(), "--cache".into(), cache.into()];
        all.extend(origin.arguments.iter().cloned());
        all.extend(arguments.eager.then(|| "--eager".into()));
        all.extend(["--log".into(), arguments.log.name().into()]);
        all.extend(origin.layers.iter().map(|layer| layer.to_string().into()));
        let (child, folders) = spawn(&device, &all).await?;
        Ok(Self { device, arguments: all, child, folders, deaths: Vec::new() })
    }

    /// Returns when the mount is gone.
    pub(super) async fn ended(&mut self) -> anyhow::Result<()> {
        loop {
            let status = self.child.wait().await?;
            if status.success() {
                return Ok(());
            }
            tracing::warn!(%status, "the process that serves the files died; starting another one");
            self.restart().await?;
        }
    }

    async fn restart(&mut self) -> anyhow::Result<()> {
        loop {
            self.deaths.retain(|death| death.elapsed() < MINUTE);
            self.deaths.push(Instant::now());
            ensure!(self.deaths.len() <= MAX_DEATHS, "it died {MAX_DEATHS} times within a minute");
            match spawn(&self.device, &self.arguments).await {
                Ok((child, _)) => {
                    self.child = child;
                    return Ok(());
                }
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
    }
}

/// Waits until it serves.
async fn spawn(device: &Device, arguments: &[std::ffi::OsString]) -> anyhow::Result<(Child, Vec<String>)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).env(INIT, hex::encode(device.init()));
    command.stdin(Stdio::from(device.descriptor()?)).stdout(Stdio::piped()).kill_on_drop(true);
    // A Ctrl-C is for the process that unmounts.
    command.process_group(0);
    let mut child = command.spawn().context("cannot start shoal fs")?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut said).await?;
    }
    ensure!(said.ends_with('\n'), "the process that serves the files could not start; see above");
    Ok((child, said.split_whitespace().map(str::to_owned).collect()))
}
