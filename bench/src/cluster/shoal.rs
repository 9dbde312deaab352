//! Shoal itself: a scheduler and a daemon per node, processes of the running program.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::net::{Host, Network};
use super::process::Process;
use super::registry;
use super::usage::{anonymous_memory, cpu_seconds};

/// What a node's client asks.
pub(super) const MIRROR: &str = "http://127.0.0.1:5100";
const SCHEDULER_PORT: u16 = 5101;
/// Between two looks at the memory of all processes.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The running processes of a cluster.
#[derive(Debug)]
pub(super) struct Shoal {
    scheduler: Process,
    daemons: Vec<Process>,
}

/// Anonymous memory in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// Of the daemon that has most.
    pub daemon: u64,
    pub scheduler: u64,
}

impl Shoal {
    /// Starts all of it with empty stores in `folder`; `zones` tells whether daemons know where they stand.
    pub(super) async fn start(network: &Network, folder: &Path, zones: bool) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let secret = folder.join("cluster.secret");
        let made = Command::new(&program)
            .args(["cluster", "init", "--secret-file"])
            .arg(&secret)
            .output()
            .context("cannot make a cluster's secret")?;
        ensure!(made.status.success(), "cluster init: {}", String::from_utf8_lossy(&made.stderr));
        let starter = Starter { network, folder, program, secret };
        let mut scheduler = starter.start(Host::Scheduler, "scheduler", "")?;
        scheduler.answers("http://127.0.0.1:5102/readyz", |_| true).await?;
        let mut daemons = Vec::new();
        for node in 0..network.plan().nodes {
            daemons.push(starter.daemon(node, zones)?);
        }
        for daemon in &mut daemons {
            daemon.answers("http://127.0.0.1:5105/status", has_scheduler).await?;
        }
        Ok(Self { scheduler, daemons })
    }

    /// CPU-seconds of all processes so far.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        self.daemons.iter().chain([&self.scheduler]).map(|process| cpu_seconds(process.pid())).sum()
    }

    /// What a node's daemon said last.
    pub(super) fn tail(&self, node: usize) -> String {
        self.daemons.get(node).map(Process::tail).unwrap_or_default()
    }
}

/// Watches the memory of all processes until asked for the peaks.
#[derive(Debug)]
pub(super) struct PeakMemory {
    stop: oneshot::Sender<()>,
    watching: JoinHandle<Memory>,
}

impl PeakMemory {
    pub(super) fn watch(shoal: &Shoal) -> Self {
        let scheduler = shoal.scheduler.pid();
        let daemons: Vec<u32> = shoal.daemons.iter().map(Process::pid).collect();
        let (stop, mut stopped) = oneshot::channel();
        let watching = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(LOOK_EVERY);
            let mut peak = Memory::default();
            loop {
                // A process that ended has no memory; why it ended shows elsewhere.
                let now = |pid: &u32| anonymous_memory(*pid).unwrap_or_default();
                peak.scheduler = peak.scheduler.max(now(&scheduler));
                peak.daemon = daemons.iter().map(now).fold(peak.daemon, u64::max);
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = &mut stopped => return peak,
                }
            }
        });
        Self { stop, watching }
    }

    pub(super) async fn peak(self) -> Result<Memory> {
        // It ends only when told to.
        let _ = self.stop.send(());
        Ok(self.watching.await?)
    }
}

struct Starter<'a> {
    network: &'a Network,
    folder: &'a Path,
    program: PathBuf,
    secret: PathBuf,
}

impl Starter<'_> {
    fn daemon(&self, node: usize, zones: bool) -> Result<Process> {
        let host = Host::Node(node);
        let zone = if zones { format!("zone-{}", self.network.plan().zone(node)) } else { String::new() };
        let config = format!(
            "[node]\ndata_dir = \"{}\"\nzone = \"{zone}\"\n\
             [mirror]\ndefault_registry = \"bench.test\"\n\
             [mirror.registries.\"bench.test\"]\nurl = \"{}\"\n\
             [scheduler]\nurls = [\"https://{}:{SCHEDULER_PORT}\"]\n",
            self.folder.join(host.name()).display(),
            registry::url(Host::Origin),
            Host::Scheduler.address(),
        );
        self.start(host, "daemon", &config)
    }

    fn start(&self, host: Host, role: &str, config: &str) -> Result<Process> {
        let name = host.name();
        let path = self.folder.join(format!("{name}.toml"));
        std::fs::write(&path, format!("{config}[cluster]\nsecret_file = \"{}\"\n", self.secret.display()))?;
        let config = path.to_str().context("the folder's name is not UTF-8")?;
        let log = self.folder.join(format!("{name}.log"));
        let arguments = [role, "--config", config];
        Process::start(&name, &self.network.namespace(host), &self.program, &arguments, &log)
    }
}

/// Whether this status of a node tells of a session with the scheduler.
fn has_scheduler(status: &str) -> bool {
    let status: Option<serde_json::Value> = serde_json::from_str(status).ok();
    status.is_some_and(|status| status.get("scheduler") == Some(&true.into()))
}
