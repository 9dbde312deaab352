//! The demo's cluster: a scheduler and nodes as processes of this same binary, on loopback.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use shoal_daemon::NodeStatus;
use tempfile::TempDir;

use crate::pull::{ImageName, http_client};

/// A process on a machine under load starts within this.
const START: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One process; killed when dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    log: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node of the demo.
#[derive(Debug)]
pub(super) struct DemoNode {
    pub name: String,
    /// `host:port` of its mirror.
    pub mirror: String,
    admin: String,
    process: Process,
}

/// The running cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    nodes: Vec<DemoNode>,
    scheduler: Process,
    // After the processes that write into it.
    _folder: TempDir,
}

/// Addresses that were free a moment ago: TCP, and UDP under the same port.
fn free_address() -> anyhow::Result<SocketAddr> {
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = tcp.local_addr()?;
    UdpSocket::bind(address)?;
    Ok(address)
}

fn start(folder: &Path, name: &str, command: &str, config: &str) -> anyhow::Result<Process> {
    let path = folder.join(format!("{name}.toml"));
    std::fs::write(&path, config)?;
    let log = folder.join(format!("{name}.log"));
    let output = File::create(&log)?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let child = Command::new(program)
        .arg(command)
        .arg("--config")
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    Ok(Process { child, log })
}

impl Process {
    /// Waits until `http://admin/readyz` says yes.
    async fn ready(&mut self, admin: &str) -> anyhow::Result<()> {
        let client = http_client()?;
        let url = format!("http://{admin}/readyz");
        let deadline = Instant::now() + START;
        loop {
            if client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("a process ended at its start ({status}):\n{}", self.output());
            }
            if Instant::now() > deadline {
                bail!("a process is not ready after {START:?}:\n{}", self.output());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// The registry that the image is on.
#[derive(Debug)]
pub(super) struct Registry {
    pub name: String,
    /// Default: from the name, over TLS.
    pub url: Option<String>,
}

impl Registry {
    /// The registry of an image. On this machine it is asked without TLS, as container clients do.
    pub(super) fn of(image: &ImageName) -> Self {
        let name = image.registry.to_string();
        let host = name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host);
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
        let url = here.then(|| format!("http://{name}"));
        Self { name, url }
    }
}

impl Cluster {
    /// Starts a scheduler and `nodes` nodes that front this registry.
    pub(super) async fn start(nodes: u8, registry: &Registry) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("shoal-demo-").tempdir()?;
        let secret = folder.path().join("cluster.secret");
        std::fs::write(&secret, shoal_transport::generate_secret()?)?;
        let cluster = format!("[cluster]\nsecret_file = \"{}\"\n", secret.display());

        let (listen, admin) = (free_address()?, free_address()?);
        let config = format!("[scheduler]\nlisten = \"{listen}\"\n[admin]\nlisten = \"{admin}\"\n{cluster}");
        let mut scheduler = start(folder.path(), "scheduler", "scheduler", &config)?;
        scheduler.ready(&admin.to_string()).await?;

        let Registry { name, url } = registry;
        // A registry that is configured may have a private address: who started this asked for it.
        let url = url.as_ref().map(|url| format!("url = \"{url}\"\n")).unwrap_or_default();
        let registry = format!("[mirror.registries.\"{name}\"]\n{url}");
        let shared = format!("[scheduler]\nurls = [\"https://{listen}\"]\n{cluster}");
        let mut started = Vec::new();
        for number in 1..=nodes {
            let name = format!("node-{number}");
            let (mirror, peers, admin) = (free_address()?, free_address()?, free_address()?);
            let config = format!(
                "[node]\ndata_dir = \"{}\"\n[peers]\nlisten = \"{peers}\"\n[admin]\nlisten = \"{admin}\"\n\
                 {shared}[mirror]\nlisten = \"{mirror}\"\n{registry}",
                folder.path().join(&name).display(),
            );
            let process = start(folder.path(), &name, "daemon", &config)?;
            started.push(DemoNode { name, mirror: mirror.to_string(), admin: admin.to_string(), process });
        }
        for node in &mut started {
            node.process.ready(&node.admin).await.with_context(|| node.name.clone())?;
        }
        Ok(Self { nodes: started, scheduler, _folder: folder })
    }

    pub(super) fn nodes(&self) -> &[DemoNode] {
        &self.nodes
    }

    /// What the processes warned of, for people who look for the reason of a failure.
    pub(super) fn print_warnings(&self) {
        let nodes = self.nodes.iter().map(|node| (node.name.as_str(), &node.process));
        for (name, process) in std::iter::once(("scheduler", &self.scheduler)).chain(nodes) {
            let output = process.output();
            let warnings = output.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR "));
            warnings.for_each(|line| eprintln!("{name}: {line}"));
        }
    }
}

impl DemoNode {
    /// What the node says of itself.
    pub(super) async fn status(&self) -> anyhow::Result<NodeStatus> {
        let text = crate::status::fetch(&self.admin).await?;
        serde_json::from_str(&text).context("the node's answer is not a status")
    }
}
