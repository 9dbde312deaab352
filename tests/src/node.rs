use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use shoal_proto::NodeId;

use crate::free_address;
use crate::puller::Puller;
use crate::service::Service;

/// One `shoal daemon`. What it shares with a scheduler (start, kill, metrics) it has from [`Service`].
#[derive(Debug)]
pub struct Node {
    service: Service,
    mirror: SocketAddr,
    peers: SocketAddr,
    data_dir: PathBuf,
}

impl Node {
    /// Makes its configuration: what is its own here, further keys of `[mirror]`, and `shared` tables.
    pub(crate) fn prepare(
        name: &str,
        (zone, rack): (&str, &str),
        folder: &Path,
        mirror_keys: &str,
        shared: &str,
    ) -> Self {
        let data_dir = folder.join(name);
        let (mirror, peers) = (free_address(), free_address());
        let toml = format!(
            "[node]\ndata_dir = \"{}\"\nzone = \"{zone}\"\nrack = \"{rack}\"\n\
             [mirror]\nlisten = \"{mirror}\"\n{mirror_keys}[peers]\nlisten = \"{peers}\"\n{shared}",
            data_dir.display(),
        );
        Self { service: Service::prepare("daemon", name, folder, &toml), mirror, peers, data_dir }
    }

    /// Where clients find it.
    pub fn mirror(&self) -> SocketAddr {
        self.mirror
    }

    /// Where other members find it, UDP.
    pub fn peers(&self) -> SocketAddr {
        self.peers
    }

    /// Who it is, as it says itself.
    pub async fn id(&self) -> NodeId {
        self.status().await["node"].as_str().and_then(|id| id.parse().ok()).expect("/status names the node")
    }

    /// The file in which the store keeps a blob of this size; the test knows that there is one such blob.
    pub fn blob_file(&self, size: u64) -> PathBuf {
        let files = std::fs::read_dir(self.data_dir.join("store").join("blobs")).unwrap();
        let found =
            files.map(|file| file.unwrap().path()).find(|path| path.metadata().unwrap().len() == size);
        found.unwrap_or_else(|| panic!("the store has no file of {size} bytes"))
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.mirror)
    }

    /// Where the process with the filesystems finds it.
    pub fn lazy_socket(&self) -> PathBuf {
        self.data_dir.join("lazy.sock")
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// An HTTP client that pulls through this node what `registry` holds.
    pub fn puller(&self, registry: &str) -> Puller {
        Puller::new(&self.url(), registry)
    }

    /// Returns once it has built this many indexes of layers since it started.
    pub async fn indexed(&self, layers: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.metrics().await.sum("shoal_indexes_built_total") < layers as f64 {
            assert!(Instant::now() < deadline, "no index after a minute: {}", self.output());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Deref for Node {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.service
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Service {
        &mut self.service
    }
}
