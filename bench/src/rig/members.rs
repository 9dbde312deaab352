//! Shoal's processes in the network: a scheduler and daemons, processes of the running program.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::net::{Host, Network, inside};
use super::process::Process;
use super::registry;

/// What a node's client asks.
pub(crate) const MIRROR: &str = "http://127.0.0.1:5100";
/// The registry's name, for which the mirror stands.
pub(crate) const REGISTRY: &str = "bench.test";
const SCHEDULER_PORT: u16 = 5101;

/// Starts the members of one cluster.
#[derive(Debug)]
pub(crate) struct Members<'a> {
    network: &'a Network,
    folder: &'a Path,
    program: PathBuf,
    secret: PathBuf,
}

impl<'a> Members<'a> {
    /// Makes the cluster's secret; all that members keep will be in `folder`.
    pub(crate) fn new(network: &'a Network, folder: &'a Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let program = std::env::current_exe().context("cannot find this program")?;
        let secret = folder.join("cluster.secret");
        let made = Command::new(&program)
            .args(["cluster", "init", "--secret-file"])
            .arg(&secret)
            .output()
            .context("cannot make a cluster's secret")?;
        ensure!(made.status.success(), "cluster init: {}", String::from_utf8_lossy(&made.stderr));
        Ok(Self { network, folder, program, secret })
    }

    /// Returns when it is ready.
    pub(crate) async fn scheduler(&self) -> Result<Process> {
        let mut scheduler = self.start(Host::Scheduler, "scheduler", "")?;
        scheduler.answers("http://127.0.0.1:5102/readyz", |_| true).await?;
        Ok(scheduler)
    }

    /// A node's daemon; without a zone it does not know where it stands.
    pub(crate) fn daemon(&self, node: usize, zone: &str) -> Result<Process> {
        let host = Host::Node(node);
        let config = format!(
            "[node]\ndata_dir = \"{}\"\nzone = \"{zone}\"\n\
             [mirror]\ndefault_registry = \"{REGISTRY}\"\n\
             [mirror.registries.\"{REGISTRY}\"]\nurl = \"{}\"\n\
             [scheduler]\nurls = [\"https://{}:{SCHEDULER_PORT}\"]\n",
            self.data(node).display(),
            registry::url(Host::Origin),
            Host::Scheduler.address(),
        );
        self.start(host, "daemon", &config)
    }

    /// The data folder of a node's daemon.
    pub(crate) fn data(&self, node: usize) -> PathBuf {
        self.folder.join(Host::Node(node).name())
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

/// Returns once a daemon has a session with the scheduler.
pub(crate) async fn joined(daemon: &mut Process) -> Result<()> {
    daemon.answers("http://127.0.0.1:5105/status", has_scheduler).await
}

/// Returns once the scheduler gives leases. It does not while nodes report after its start, which a cluster in use has
/// behind it.
pub(crate) async fn open(scheduler: &mut Process) -> Result<()> {
    scheduler.answers("http://127.0.0.1:5102/status", gives_leases).await
}

/// Whether this status of a scheduler says that it gives leases.
fn gives_leases(status: &str) -> bool {
    is_true(status, "open")
}

/// Whether this status of a node tells of a session with the scheduler.
fn has_scheduler(status: &str) -> bool {
    is_true(status, "scheduler")
}

fn is_true(status: &str, field: &str) -> bool {
    let status: Option<serde_json::Value> = serde_json::from_str(status).ok();
    status.is_some_and(|status| status.get(field) == Some(&true.into()))
}

/// What is answered to a GET inside a namespace.
pub(crate) async fn ask(namespace: &str, url: &str) -> Result<String> {
    let url = url.to_owned();
    inside(namespace.to_owned(), move || async move {
        let client = reqwest::Client::builder().no_proxy().build()?;
        Ok(client.get(url).send().await?.error_for_status()?.text().await?)
    })
    .await
}
