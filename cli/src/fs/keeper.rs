//! The process that serves a mount, started anew if it dies.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use shoal_lazyfs::fuse::Device;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::INIT;

/// Deaths in a minute after which it is not started again: something kills it each time.
const MAX_DEATHS: usize = 5;
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) struct Keeper {
    device: Device,
    arguments: Vec<OsString>,
    child: Child,
    deaths: Vec<Instant>,
}

impl Keeper {
    /// Starts `shoal` with these arguments to serve the mount. Once it serves, returns what it said then, too.
    pub(crate) async fn start(device: Device, arguments: Vec<OsString>) -> anyhow::Result<(Self, String)> {
        let (child, said) = spawn(&device, &arguments).await?;
        Ok((Self { device, arguments, child, deaths: Vec::new() }, said))
    }

    /// Returns when the mount is gone.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
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
async fn spawn(device: &Device, arguments: &[OsString]) -> anyhow::Result<(Child, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).env(INIT, hex::encode(device.init()));
    command.stdin(Stdio::from(device.descriptor()?)).stdout(Stdio::piped()).kill_on_drop(true);
    // A Ctrl-C is for the process that unmounts.
    command.process_group(0);
    let mut child = command.spawn().context("cannot start the process that serves the files")?;
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut said).await?;
    }
    ensure!(said.ends_with('\n'), "the process that serves the files could not start; see above");
    Ok((child, said))
}
