//! The process that serves a mount, started anew if it dies.

use std::ffi::OsString;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use shoal_lazyfs::fuse::Device;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::Instant;

use super::INIT;

/// Deaths in a minute after which it is not started again: something kills it each time.
const MAX_DEATHS: usize = 5;
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) struct Keeper {
    device: Device,
    arguments: Vec<OsString>,
    child: Child,
    /// A child that looks sees by its end that this process is gone.
    output: Said,
    deaths: Vec<Instant>,
}

/// The child's standard output.
type Said = BufReader<ChildStdout>;

impl Keeper {
    /// Starts `shoal` with these arguments to serve the mount. Once it serves, returns what it said then, too.
    pub(crate) async fn start(device: Device, arguments: Vec<OsString>) -> anyhow::Result<(Self, String)> {
        let (child, said, line) = spawn(&device, &arguments).await?;
        Ok((Self { device, arguments, child, output: said, deaths: Vec::new() }, line))
    }

    /// Returns when the mount is gone.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        loop {
            let status = self.child.wait().await?;
            if status.success() {
                return Ok(());
            }
            tracing::warn!(%status, "the process that serves the files died");
            self.restart().await?;
        }
    }

    async fn restart(&mut self) -> anyhow::Result<()> {
        loop {
            self.deaths.retain(|death| death.elapsed() < MINUTE);
            self.deaths.push(Instant::now());
            ensure!(
                self.deaths.len() < MAX_DEATHS,
                "the process that serves the files died {MAX_DEATHS} times within a minute; now nothing serves them"
            );
            tracing::info!("starting another one");
            match spawn(&self.device, &self.arguments).await {
                Ok((child, said, _)) => {
                    (self.child, self.output) = (child, said);
                    return Ok(());
                }
                Err(error) => tracing::warn!("{error:#}"),
            }
        }
    }
}

/// Waits until it serves.
async fn spawn(device: &Device, arguments: &[OsString]) -> anyhow::Result<(Child, Said, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(arguments).env(INIT, hex::encode(device.init()));
    command.stdin(Stdio::from(device.descriptor()?)).stdout(Stdio::piped()).kill_on_drop(true);
    // A Ctrl-C is for the process that unmounts.
    command.process_group(0);
    let mut child = command.spawn().context("cannot start the process that serves the files")?;
    let said = child.stdout.take().context("it has no standard output")?;
    let (mut said, mut line) = (BufReader::new(said), String::new());
    said.read_line(&mut line).await?;
    ensure!(line.ends_with('\n'), "the process that serves the files could not start; see above");
    Ok((child, said, line))
}
