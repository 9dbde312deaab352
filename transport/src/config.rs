//! `[cluster]` of every configuration file, the rule that goes with it (who has no secret stays on loopback), and
//! what to say to people whose file cannot be parsed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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

// Of a file's mode: who is neither its owner nor in its group.
const OTHERS: u32 = 0o007;

impl ClusterSection {
    /// The cluster's authority. Without a secret it is the public one, and a warning is logged.
    pub fn load(&self) -> Result<Cluster, ClusterError> {
        match &self.secret_file {
            Some(path) => {
                warn_if_others_may_read(path);
                Cluster::from_file(path)
            }
            None => {
                warn!("no cluster secret: only nodes on this machine are talked to");
                Cluster::insecure()
            }
        }
    }

    /// Where to listen: without a secret anybody could join, so what nobody wrote in the file moves from `default` to
    /// loopback, and an open address that somebody `wrote` is refused with `None`.
    pub fn listen(&self, wrote: Option<SocketAddr>, default: SocketAddr) -> Option<SocketAddr> {
        match wrote {
            Some(asked) => (self.secret_file.is_some() || asked.ip().is_loopback()).then_some(asked),
            None if self.secret_file.is_some() => Some(default),
            None => Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), default.port())),
        }
    }
}

fn warn_if_others_may_read(path: &Path) {
    // A file that is not there is told of by who reads it.
    if std::fs::metadata(path).is_ok_and(|file| file.mode() & OTHERS != 0) {
        let path = path.display();
        warn!("everybody on this machine can read the cluster's secret: chmod 0400 {path}");
    }
}

/// What to write instead of the line that `span` is in, where the parser's own words do not tell; empty for none.
pub fn hint(text: &str, span: Option<Range<usize>>) -> &'static str {
    let start = span.map_or(0, |span| span.start);
    let before = text.get(..start).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = text.get(line_start..).unwrap_or_default().lines().next().unwrap_or_default().trim();
    let key = line.split('=').next().unwrap_or_default().trim();
    match key {
        "disk" | "upload" | "download" | "origin" | "memory" => {
            ": write a size such as \"50GiB\" (a rate is a size per second)"
        }
        "tag_ttl" | "max_stale" | "access_ttl" | "drain" => ": write a duration such as \"30s\" or \"24h\"",
        "advertise" => ": write addresses with their ports, such as [\"192.0.2.7:5103\"]",
        "listen" => ": write an address with its port, such as \"127.0.0.1:5100\"",
        "urls" => ": write a list, such as [\"https://scheduler.example.com:5101\"]",
        _ if key.starts_with("[mirror.registries.") && !key.contains(['"', '\'']) => {
            ": put the registry's name in quotes, as in [mirror.registries.\"registry.example.com\"]"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_counts_as_written_though_it_is_the_default() {
        let default: SocketAddr = "0.0.0.0:5103".parse().unwrap();
        let without = ClusterSection::default();
        let loopback: SocketAddr = "127.0.0.1:5103".parse().unwrap();
        assert_eq!(without.listen(None, default), Some(loopback));
        assert_eq!(without.listen(Some(default), default), None);
        assert_eq!(without.listen(Some(loopback), default), Some(loopback));
        let with = ClusterSection { secret_file: Some("/secret".into()) };
        assert_eq!(with.listen(None, default), Some(default));
        assert_eq!(with.listen(Some(default), default), Some(default));
    }

    #[test]
    fn hints_are_for_the_line_that_is_wrong() {
        let text = "[limits]\ndisk = 5\n[mirror.registries.a.example]\n";
        assert!(hint(text, Some(16..17)).contains("50GiB"));
        assert!(hint(text, Some(30..40)).contains("quotes"));
        assert_eq!(hint(text, Some(0..3)), "");
        assert_eq!(hint("", Some(900..901)), "");
    }
}
