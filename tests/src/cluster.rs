use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use tempfile::TempDir;

use crate::free_address;
use crate::node::Node;
use crate::service::Service;
use crate::tmpfs::Tmpfs;

/// A scheduler and daemons on loopback, in one temporary folder.
#[derive(Debug)]
pub struct Cluster {
    // Declared before the folder: processes end first.
    scheduler: Option<Service>,
    nodes: Vec<Node>,
    _disks: Vec<Tmpfs>,
    secret: PathBuf,
    scheduler_url: String,
    _dir: TempDir,
}

impl Cluster {
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder {
            nodes: 1,
            zones: 1,
            scheduler: true,
            registries: Vec::new(),
            mirror: String::new(),
            toml: String::new(),
            environment: Vec::new(),
            disk: None,
        }
    }

    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    pub fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Fails the test when the cluster was built without one.
    pub fn scheduler(&mut self) -> &mut Service {
        self.scheduler.as_mut().expect("the cluster has a scheduler")
    }

    /// Where a member finds the scheduler; empty without one.
    pub fn scheduler_url(&self) -> &str {
        &self.scheduler_url
    }

    /// The file with the cluster's secret.
    pub fn secret(&self) -> &Path {
        &self.secret
    }

    /// The sum of a metric over all nodes.
    pub async fn sum(&self, metric: &str) -> f64 {
        join_all(self.nodes.iter().map(|node| node.metrics())).await.iter().map(|m| m.sum(metric)).sum()
    }
}

/// Says what a [`Cluster`] consists of.
#[derive(Clone, Debug)]
pub struct ClusterBuilder {
    nodes: usize,
    zones: usize,
    scheduler: bool,
    registries: Vec<(String, String)>,
    mirror: String,
    toml: String,
    environment: Vec<(String, String)>,
    disk: Option<u64>,
}

impl ClusterBuilder {
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// Spreads the nodes over this many zones.
    pub fn zones(mut self, zones: usize) -> Self {
        self.zones = zones;
        self
    }

    pub fn without_scheduler(mut self) -> Self {
        self.scheduler = false;
        self
    }

    /// What clients call `name` is at `url` (plain HTTP). Without a `?ns=`, the first one is meant.
    pub fn registry(mut self, name: &str, url: &str) -> Self {
        self.registries.push((name.to_owned(), url.to_owned()));
        self
    }

    /// More keys of `[mirror]` for every node.
    pub fn mirror(mut self, keys: &str) -> Self {
        self.mirror.push_str(keys);
        self.mirror.push('\n');
        self
    }

    /// More TOML for every node: whole tables, such as `[limits]`.
    pub fn toml(mut self, toml: &str) -> Self {
        self.toml.push_str(toml);
        self.toml.push('\n');
        self
    }

    /// A variable in the environment of every node.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives each node a file system of its own with this many bytes. Needs root.
    pub fn disk_of(mut self, bytes: u64) -> Self {
        self.disk = Some(bytes);
        self
    }

    /// Starts the scheduler, then all nodes; returns when all are ready.
    pub async fn start(self) -> Cluster {
        let dir = TempDir::new().unwrap();
        let secret = dir.path().join("secret");
        write_secret(&secret);
        let cluster = format!("[cluster]\nsecret_file = \"{}\"\n", secret.display());

        let mut shared = String::new();
        let mut scheduler = None;
        let mut scheduler_url = String::new();
        if self.scheduler {
            let listen = free_address();
            let toml = format!("[scheduler]\nlisten = \"{listen}\"\n{cluster}");
            let mut service = Service::prepare("scheduler", "scheduler", dir.path(), &toml);
            service.start().await;
            scheduler = Some(service);
            scheduler_url = format!("https://{listen}");
            write!(shared, "[scheduler]\nurls = [\"{scheduler_url}\"]\n").unwrap();
        }
        shared.push_str(&cluster);
        for (name, url) in &self.registries {
            write!(shared, "[mirror.registries.\"{name}\"]\nurl = \"{url}\"\nplain_http = true\n").unwrap();
        }
        shared.push_str(&self.toml);

        let mut mirror = self.mirror;
        if let Some((name, _)) = self.registries.first() {
            writeln!(mirror, "default_registry = \"{name}\"").unwrap();
        }
        let mut nodes: Vec<_> = (0..self.nodes)
            .map(|index| {
                let zone = format!("zone{}", index % self.zones);
                let rack = format!("rack{index}");
                let place = (zone.as_str(), rack.as_str());
                let mut node = Node::prepare(&format!("node{index}"), place, dir.path(), &mirror, &shared);
                node.set_environment(&self.environment);
                node
            })
            .collect();
        let disk = |bytes| nodes.iter().map(|node| Tmpfs::mount(node.data_dir(), bytes)).collect();
        let disks = self.disk.map_or_else(Vec::new, disk);
        join_all(nodes.iter_mut().map(|node| node.start())).await;
        Cluster { scheduler, nodes, _disks: disks, secret, scheduler_url, _dir: dir }
    }
}

/// What `shoal cluster init` writes: 32 random bytes in hexadecimal, readable for the owner only.
fn write_secret(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    let secret: String = (0..32).map(|_| format!("{:02x}", fastrand::u8(..))).collect();
    std::fs::write(path, secret + "\n").unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
