use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};

use crate::free_address;
use crate::puller::Puller;
use crate::service::Service;

/// One `shoal daemon`. What it shares with a scheduler (start, kill, metrics) it has from [`Service`].
#[derive(Debug)]
pub struct Node {
    service: Service,
    mirror: SocketAddr,
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
        let mirror = free_address();
        let toml = format!(
            "[node]\ndata_dir = \"{}\"\nzone = \"{zone}\"\nrack = \"{rack}\"\n\
             [mirror]\nlisten = \"{mirror}\"\n{mirror_keys}[peers]\nlisten = \"{}\"\n{shared}",
            data_dir.display(),
            free_address(),
        );
        Self { service: Service::prepare("daemon", name, folder, &toml), mirror, data_dir }
    }

    /// Where clients find it.
    pub fn mirror(&self) -> SocketAddr {
        self.mirror
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.mirror)
    }

    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// An HTTP client that pulls through this node what `registry` holds.
    pub fn puller(&self, registry: &str) -> Puller {
        Puller::new(&self.url(), registry)
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
