//! The scheduler's configuration file: TOML, unknown keys refused with their line, every key with a default.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use shoal_transport::{ClusterError, ClusterSection, hint};

/// The file, section by section.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    pub scheduler: ListenSection,
    pub cluster: ClusterSection,
    pub admin: AdminSection,
}

/// `[scheduler]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenSection {
    /// gRPC over mutual TLS; default: port 5101 of all addresses, or of loopback without a cluster secret.
    pub listen: Option<SocketAddr>,
}

/// `[admin]`: metrics, health, status.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSection {
    pub listen: SocketAddr,
}

const PORT: u16 = 5101;
const ADMIN_PORT: u16 = 5102;

impl Default for AdminSection {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, ADMIN_PORT).into() }
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}{hint}", .path.display())]
    Parse { path: PathBuf, hint: &'static str, source: Box<toml::de::Error> },
    #[error(
        "[scheduler] listen = \"{0}\" needs a cluster secret: run `shoal cluster init` and set [cluster] secret_file, or listen on 127.0.0.1"
    )]
    OpenWithoutSecret(SocketAddr),
    #[error("[cluster] secret_file")]
    Cluster(#[from] ClusterError),
}

impl SchedulerConfig {
    /// Reads and parses a file; errors name the file and, for what is wrong inside it, the line.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.to_owned(),
            hint: hint(&text, source.span()),
            source: Box::new(source),
        })
    }

    /// Checks all that a start checks, short of taking the addresses.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.listen()?;
        self.cluster.load()?;
        Ok(())
    }

    /// The address to listen on: without a secret anybody could join, so it stays on loopback.
    pub fn listen(&self) -> Result<SocketAddr, ConfigError> {
        let default = (Ipv4Addr::UNSPECIFIED, PORT).into();
        let allowed = self.cluster.listen(self.scheduler.listen, default);
        allowed.ok_or(ConfigError::OpenWithoutSecret(self.scheduler.listen.unwrap_or(default)))
    }
}
