//! Which blob, as a swarm knows it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{ChunkLayout, Digest, LayoutError};

/// The name of a registry as images name it: `docker.io`, `registry.example.com:5000`, `[::1]:5000`.
/// Lower case; no scheme, no path. Cheap to clone: every entry names its swarm.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistryName(Arc<str>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a registry's name: write host or host:port")]
pub struct RegistryNameError(String);

impl RegistryName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without its port.
    pub fn host(&self) -> &str {
        match self.0.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => &self.0,
        }
    }

    pub fn port(&self) -> Option<u16> {
        self.0.get(self.host().len() + 1..)?.parse().ok()
    }
}

// A DNS name has at most 253 characters; six more for a port.
const MAX_NAME: usize = 259;

fn is_host(host: &str) -> bool {
    if let Some(v6) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return v6.parse::<std::net::Ipv6Addr>().is_ok();
    }
    !host.is_empty()
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && label.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
        })
}

impl FromStr for RegistryName {
    type Err = RegistryNameError;

    fn from_str(text: &str) -> Result<Self, RegistryNameError> {
        let refuse = || RegistryNameError(text.chars().take(64).collect());
        if text.len() > MAX_NAME {
            return Err(refuse());
        }
        let lower = text.to_ascii_lowercase();
        let (host, port) = match lower.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (lower.as_str(), None),
        };
        let port_ok = port
            .is_none_or(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|n| n != 0));
        if is_host(host) && port_ok { Ok(Self(lower.into())) } else { Err(refuse()) }
    }
}

impl fmt::Display for RegistryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a swarm: the nodes that exchange the chunks of one blob.
///
/// The registry and the size are part of the name until a SHA-256 matched, so that a hostile registry that
/// lists a popular digest with wrong bytes or a wrong size spoils nobody else's pull.
/// `round` starts at 0 and rises when all chunks of a round matched their entries and the
/// digest did not: entries of another round are worth nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SwarmId {
    pub digest: Digest,
    /// The blob's size in bytes, at most [`crate::MAX_BLOB_SIZE`].
    pub size: u64,
    pub origin: RegistryName,
    pub round: u32,
}

impl SwarmId {
    /// Whether both are about the same bytes from the same registry, in whatever round.
    pub fn is_same_blob(&self, other: &Self) -> bool {
        (self.digest, self.size, &self.origin) == (other.digest, other.size, &other.origin)
    }

    pub fn layout(&self) -> Result<ChunkLayout, LayoutError> {
        ChunkLayout::new(self.size)
    }
}

impl fmt::Display for SwarmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes, {}", self.digest, self.size, self.origin)?;
        if self.round > 0 {
            write!(f, ", round {}", self.round)?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_registries() {
        for (text, host, port) in [
            ("docker.io", "docker.io", None),
            ("LOCALHOST:5000", "localhost", Some(5000)),
            ("[::1]:5000", "[::1]", Some(5000)),
            ("[::1]", "[::1]", None),
            ("10.0.0.1:80", "10.0.0.1", Some(80)),
        ] {
            let name: RegistryName = text.parse().unwrap();
            assert_eq!((name.host(), name.port()), (host, port), "{text}");
        }
    }

    #[test]
    fn hostile_names_are_refused() {
        let long = "a.".repeat(200);
        for text in [
            "", "a/b", "http://a", "a:0", "a:+80", "a:99999", "a b", "a..b", "-a", "é.io", "a@b", "[::1",
            "a:", "a:1:2", &long, "[zz]", "a\n",
        ] {
            assert!(text.parse::<RegistryName>().is_err(), "{text}");
        }
    }
}
