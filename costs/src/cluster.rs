//! `shoal` processes on loopback.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use shoal_proto::Digest;
use shoal_tests::{Process, client, free_address};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::Instant;

use crate::client::Client;
use crate::sample::Sample;
use crate::usage::cpu_seconds;

/// A whole transfer takes less.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often a node is asked whether a blob is complete: often enough for the clock, seldom enough for its CPU time.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A folder with a secret, in which processes are started.
#[derive(Debug)]
pub(crate) struct Cluster {
    folder: TempDir,
    scheduler: Option<SocketAddr>,
    started: usize,
}

/// One `shoal daemon` or `shoal scheduler`; killed when dropped.
#[derive(Debug)]
pub(crate) struct Shoal {
    pub pid: u32,
    /// The mirror of a daemon, the gRPC address of a scheduler.
    pub address: SocketAddr,
    admin: SocketAddr,
    /// Of a daemon: where it gives bytes of lazy layers.
    pub lazy_socket: PathBuf,
    // Held for its drop.
    _process: Process,
}

impl Cluster {
    pub(crate) fn new(parent: &Path) -> Result<Self> {
        let folder = TempDir::new_in(parent)?;
        let secret = shoal_transport::generate_secret()?;
        std::fs::write(folder.path().join("secret"), secret)?;
        Ok(Self { folder, scheduler: None, started: 0 })
    }

    pub(crate) fn secret_file(&self) -> PathBuf {
        self.folder.path().join("secret")
    }

    /// Starts the scheduler that daemons started later will use.
    pub(crate) async fn scheduler(&mut self) -> Result<Shoal> {
        let listen = free_address();
        let shoal = self.start("scheduler", listen, &format!("[scheduler]\nlisten = \"{listen}\"\n")).await?;
        self.scheduler = Some(listen);
        Ok(shoal)
    }

    /// Starts a daemon. `mirror` is further keys of that table.
    pub(crate) async fn daemon(&mut self, origin: Option<SocketAddr>, mirror: &str) -> Result<Shoal> {
        let (listen, peers) = (free_address(), free_address());
        let data_dir = self.folder.path().join(format!("data-{}", self.started));
        let mut config = format!(
            "[node]\ndata_dir = \"{}\"\n[peers]\nlisten = \"{peers}\"\n\
             [mirror]\nlisten = \"{listen}\"\ndefault_registry = \"bench.test\"\n{mirror}",
            data_dir.display()
        );
        if let Some(origin) = origin {
            config += &format!(
                "\n[mirror.registries.\"bench.test\"]\nurl = \"http://{origin}\"\nplain_http = true\n"
            );
        }
        if let Some(scheduler) = self.scheduler {
            config += &format!("\n[scheduler]\nurls = [\"https://{scheduler}\"]\n");
        }
        let daemon = self.start("daemon", listen, &config).await?;
        Ok(Shoal { lazy_socket: data_dir.join("lazy.sock"), ..daemon })
    }

    async fn start(&mut self, role: &str, address: SocketAddr, config: &str) -> Result<Shoal> {
        let name = format!("{role}-{}", self.started);
        self.started += 1;
        let admin = free_address();
        let path = self.folder.path().join(format!("{name}.toml"));
        let secret = self.secret_file();
        let secret = secret.display();
        std::fs::write(
            &path,
            format!("{config}\n[cluster]\nsecret_file = \"{secret}\"\n[admin]\nlisten = \"{admin}\"\n"),
        )?;
        let mut command = Command::new(shoal_binary()?);
        command.arg(role).arg("--config").arg(&path).env("SHOAL_LOG", "warn");
        for name in ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        let log = self.folder.path().join(format!("{name}.log"));
        let mut process = Process::spawn(&name, command, &log);
        let pid = process.pid().with_context(|| format!("{name} ended at once"))?;
        let deadline = Process::readiness_deadline();
        let (client, url) = (client(), format!("http://{admin}/readyz"));
        while !client.get(&url).send().await.is_ok_and(|response| response.status().is_success()) {
            ensure!(
                process.is_alive() && Instant::now().into_std() < deadline,
                "{name}: {}",
                process.output()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(Shoal { pid, address, admin, lazy_socket: PathBuf::new(), _process: process })
    }
}

impl Shoal {
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(self.pid)
    }

    pub(crate) async fn status(&self) -> Result<Value> {
        let answer = client().get(format!("http://{}/status", self.admin)).send().await?;
        Ok(serde_json::from_str(&answer.text().await?)?)
    }

    /// Lets the node fetch the image without a client that reads it: a manifest that passes makes it fetch the layers.
    pub(crate) async fn fetch(&self, sample: &Sample) -> Result<()> {
        let path = format!("/v2/bench/manifests/{}", sample.manifest_digest);
        let address = self.address;
        tokio::task::spawn_blocking(move || Client::connect(address, 0)?.get(&path, |_| ())).await??;
        self.complete(&sample.layer.digest).await
    }

    /// Pulls as a client does: the manifest, then the layer, read to its end.
    pub(crate) async fn pull(&self, sample: &Sample) -> Result<()> {
        let manifest = format!("/v2/bench/manifests/{}", sample.manifest_digest);
        let (layer, address) = (layer_path(sample), self.address);
        let read = move || {
            let mut client = Client::connect(address, crate::client::BUFFER)?;
            client.get(&manifest, |_| ())?;
            client.get(&layer, |_| ())
        };
        let length = tokio::task::spawn_blocking(read).await??;
        ensure!(length == sample.layer.size, "the layer has {length} bytes");
        self.complete(&sample.layer.digest).await
    }

    /// Waits until a blob is complete on this node's disk.
    pub(crate) async fn complete(&self, digest: &Digest) -> Result<()> {
        let digest = digest.to_string();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await?;
            let blobs = status.get("blobs").and_then(Value::as_array);
            let is = |blob: &&Value| blob.get("digest").is_some_and(|text| *text == digest);
            let blob = blobs.and_then(|blobs| blobs.iter().find(is));
            if blob.and_then(|blob| blob.get("complete")).is_some_and(|complete| complete == true) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{digest} is not complete after {PATIENCE:?}: {status}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Bytes that this node got from peers.
    pub(crate) async fn bytes_from_peers(&self) -> Result<u64> {
        let status = self.status().await?;
        let bytes = status.pointer("/transfer/peer_received_bytes").and_then(Value::as_u64);
        bytes.context("the status does not tell bytes from peers")
    }
}

/// What a client asks for to get the layer.
pub(crate) fn layer_path(sample: &Sample) -> String {
    format!("/v2/bench/blobs/{}", sample.layer.digest)
}

/// What SHOAL_BIN names, or `shoal` beside this program.
fn shoal_binary() -> Result<PathBuf> {
    let binary = match std::env::var_os("SHOAL_BIN") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?.with_file_name("shoal"),
    };
    ensure!(binary.is_file(), "{} is missing: build it, or set SHOAL_BIN", binary.display());
    Ok(binary)
}
