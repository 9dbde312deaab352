//! `[cluster]` of every configuration file, and the rule that goes with it: who has no secret stays on loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;
use tracing::warn;

use crate::cluster::{Cluster, ClusterError};

/// `[cluster]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSection {
    /// Made by `shoal cluster init`; the same file on every node.
    pub secret_file: Option<PathBuf>,
}

impl ClusterSection {
    /// The cluster's authority. Without a secret it is the public one, and a warning is logged.
    pub fn load(&self) -> Result<Cluster, ClusterError> {
        match &self.secret_file {
            Some(path) => Cluster::from_file(path),
            None => {
                warn!("no cluster secret: only nodes on this machine are talked to");
                Cluster::insecure()
            }
        }
    }

    /// Where to listen: without a secret anybody could join, so what is left at `default` moves to loopback, and any
    /// other open address is refused with `None`.
    pub fn listen(&self, asked: SocketAddr, default: SocketAddr) -> Option<SocketAddr> {
        if self.secret_file.is_some() || asked.ip().is_loopback() {
            Some(asked)
        } else {
            (asked == default).then(|| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), asked.port()))
        }
    }
}
