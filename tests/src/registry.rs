use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::access_log::Access;
use crate::http::{Credentials, client};
use crate::image::Image;
use crate::process::Process;
use crate::program::{command, run};
use crate::{free_address, push};

/// Marks the requests that the fixture itself makes to learn how far the access log is.
const FENCE: &str = "/v2/?fence=";

/// Debian's docker-registry (Distribution) with its own folder, its own port and its access log.
#[derive(Debug)]
pub struct Registry {
    dir: TempDir,
    address: SocketAddr,
    credentials: Option<Credentials>,
    process: Option<Process>,
    fences: AtomicU32,
}

impl Registry {
    /// A registry that everybody may read and write.
    pub async fn start() -> Self {
        Self::prepare(None).await
    }

    /// A registry that asks for this user name and password (htpasswd, bcrypt) for everything.
    pub async fn private(credentials: Credentials) -> Self {
        Self::prepare(Some(credentials)).await
    }

    async fn prepare(credentials: Option<Credentials>) -> Self {
        let dir = TempDir::new().unwrap();
        let address = free_address();
        let root = dir.path().display();
        let mut config = format!(
            "version: 0.1\n\
             log:\n  accesslog:\n    disabled: false\n  level: error\n\
             storage:\n  filesystem:\n    rootdirectory: {root}/data\n  delete:\n    enabled: true\n\
             http:\n  addr: {address}\n  draintimeout: 10s\n"
        );
        if let Some(Credentials { user, password }) = &credentials {
            let line = run(command("htpasswd"), ["-Bbn", user, password]).await.unwrap();
            std::fs::write(dir.path().join("htpasswd"), line.stdout).unwrap();
            write!(config, "auth:\n  htpasswd:\n    realm: test\n    path: {root}/htpasswd\n").unwrap();
        }
        std::fs::write(dir.path().join("config.yml"), config).unwrap();
        let mut registry = Self { dir, address, credentials, process: None, fences: AtomicU32::new(0) };
        registry.start_again().await;
        registry
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// Stores all of the image and lets `tag` name it.
    pub async fn push(&self, image: &Image, repository: &str, tag: &str) {
        push::push(&self.url(), self.credentials.as_ref(), image, repository, tag).await;
    }

    /// Ends the registry; nothing listens on its port until `start_again`.
    pub async fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop().await;
        }
    }

    /// Starts it on the same port and data as before.
    pub async fn start_again(&mut self) {
        let mut serve = command("docker-registry");
        serve.arg("serve").arg(self.dir.path().join("config.yml"));
        let mut process = Process::spawn("docker-registry", serve, &self.log());
        process.accepts(self.address).await;
        self.process = Some(process);
    }

    /// Every request so far. A request is logged when it ends, possibly after its client has read the
    /// last byte, so this asks for something itself and waits for that line: all that ended before is
    /// then there. Stop the registry first to also see the requests that are being cut off.
    pub async fn requests(&self) -> Vec<Access> {
        if self.process.is_some() {
            self.fence().await;
        }
        self.logged().into_iter().filter(|access| !access.path.starts_with(FENCE)).collect()
    }

    /// GETs of manifests that were answered.
    pub async fn manifest_gets(&self) -> Vec<Access> {
        self.requests().await.into_iter().filter(Access::is_manifest_get).collect()
    }

    /// Bytes of blobs that were sent.
    pub async fn blob_bytes(&self) -> u64 {
        self.requests().await.iter().filter(|a| a.is_blob_get()).map(Access::body_bytes).sum()
    }

    /// Bytes of blobs and manifests that were sent.
    pub async fn content_bytes(&self) -> u64 {
        self.requests().await.iter().filter(|a| a.is_content_get()).map(Access::body_bytes).sum()
    }

    async fn fence(&self) {
        let fence = format!("{FENCE}{}", self.fences.fetch_add(1, Ordering::Relaxed));
        client().get(format!("{}{fence}", self.url())).send().await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.logged().iter().any(|access| access.path == fence) {
            assert!(Instant::now() < deadline, "the registry did not log {fence}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn logged(&self) -> Vec<Access> {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().filter_map(Access::parse).collect()
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("access.log")
    }
}
