//! Processes in namespaces.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::net::inside;

/// A process on a machine under load starts, and ends when told to, within this.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// So much of what a process said is shown when it fails.
const TAIL_LINES: usize = 15;
/// A proxy of the machine is not meant for the network that is made here.
const PROXIES: [&str; 6] =
    ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// Prepares a command for the network that is made here.
pub(crate) fn plain(command: &mut Command) {
    for proxy in PROXIES {
        command.env_remove(proxy);
    }
    // Ctrl-C on the terminal is for the benchmark, which ends its processes in order.
    command.process_group(0).stdin(Stdio::null());
}

/// One process inside a namespace; killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    namespace: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `program arguments`; what it prints goes to the file `log`.
    pub(crate) fn start(
        name: &str,
        namespace: &str,
        program: &Path,
        arguments: &[&str],
        log: &Path,
    ) -> Result<Self> {
        // `ip netns exec` becomes the program, so its process is the program's.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(program).args(arguments);
        Self::spawn(name, namespace, command, log)
    }

    /// Starts a command that enters the namespace, or that of a process in it, by itself.
    pub(crate) fn spawn(name: &str, namespace: &str, mut command: Command, log: &Path) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        plain(&mut command);
        command.stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name: name.to_owned(), namespace: namespace.to_owned(), child, log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a GET of `url` inside its namespace gives an answer that `fits`.
    pub(crate) async fn answers(&mut self, url: &str, fits: fn(&str) -> bool) -> Result<()> {
        let asked = url.to_owned();
        let answered = inside(self.namespace.clone(), move || async move {
            let client = reqwest::Client::builder().no_proxy().build()?;
            loop {
                if let Ok(response) = client.get(&asked).send().await
                    && response.status().is_success()
                    && response.text().await.is_ok_and(|text| fits(&text))
                {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
        let ended = async {
            while matches!(self.child.try_wait(), Ok(None)) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let failure = tokio::select! {
            answered = answered => return answered,
            () = ended => "ended at its start",
            () = tokio::time::sleep(PATIENCE) => "is not ready in time",
        };
        bail!("{} {failure}:\n{}", self.name, self.tail())
    }

    /// Waits until something that is tried again and again succeeds.
    pub(crate) async fn until<T>(&mut self, mut done: impl AsyncFnMut(&Self) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = done(self).await {
                return Ok(found);
            }
            let failure = match self.child.try_wait()? {
                Some(_) => "ended at its start",
                None if Instant::now() > deadline => "is not ready in time",
                None => {
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
            };
            bail!("{} {failure}:\n{}", self.name, self.tail());
        }
    }

    /// Asks it to end, and waits until it did.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).with_context(|| format!("cannot stop {}", self.name))?;
        }
        let deadline = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("{} does not end", self.name);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// The same, for one that is not needed any more.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.stop().await
    }

    /// The last lines that it printed.
    pub(crate) fn tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let (_, tail) = lines.split_at(lines.len().saturating_sub(TAIL_LINES));
        tail.join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
