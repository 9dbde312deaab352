//! Configuration of the proxy.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::ListenAddress;

/// Where and how the proxy listens. Every key has a default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProxyConfig {
    /// One address or several: `"127.0.0.1:5100"`, `"unix:/path"`, `"systemd"` or `"systemd:name"`.
    /// Loopback by default: clients hand their credentials to a mirror that asks for them.
    #[serde(deserialize_with = "deserialize_listen")]
    pub listen: Vec<ListenAddress>,
    /// TLS on the TCP listeners; Unix sockets stay plain.
    pub tls: Option<TlsConfig>,
    /// Answers 401 to a ping (`/v2/`) without an `Authorization` header. podman, skopeo, buildah and CRI-O send
    /// the credentials that they hold for the mirror's address only to a mirror that does this, and empty ones
    /// (taken as anonymous) if they hold none; so private images need it there. Off by default: docker would
    /// send its Docker Hub credentials.
    pub challenge: bool,
    /// Connections at once; more wait in the kernel's queue. Also the bound of requests at once, which
    /// HTTP/2 could multiply. A connection without a body in flight takes about 10 KiB.
    pub max_connections: NonZeroUsize,
    /// How long responses in flight may go on after the proxy was told to stop.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
}

/// A certificate chain and its key, PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            listen: vec![ListenAddress::DEFAULT],
            tls: None,
            challenge: false,
            // One node's clients fetch at most some hundred blobs at once; this leaves room and still keeps
            // descriptors below the usual hard limit.
            max_connections: const { NonZeroUsize::new(4096).unwrap() },
            // Below the 30 s after which container platforms kill.
            drain: Duration::from_secs(20),
        }
    }
}

/// One address or a list of them, for a configuration that has such a key of its own.
pub fn deserialize_listen<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<ListenAddress>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Listen {
        One(String),
        Many(Vec<String>),
    }
    let texts = match Listen::deserialize(from)? {
        Listen::One(text) => vec![text],
        Listen::Many(texts) => texts,
    };
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_default() {
        assert_eq!(toml::from_str::<ProxyConfig>("").unwrap(), ProxyConfig::default());
    }

    #[test]
    fn one_address_or_several() {
        let one: ProxyConfig = toml::from_str("listen = 'unix:/run/shoal.sock'").unwrap();
        assert_eq!(one.listen, ["unix:/run/shoal.sock".parse().unwrap()]);
        let two: ProxyConfig =
            toml::from_str("listen = ['[::1]:0', 'systemd:mirror']\ndrain = '5s'").unwrap();
        assert_eq!(two.listen.len(), 2);
        assert_eq!(two.drain, Duration::from_secs(5));
    }

    #[test]
    fn typos_and_bad_values_are_refused_by_name() {
        for (text, names) in [
            ("lisen = '127.0.0.1:1'", "lisen"),
            ("listen = 'nowhere'", "nowhere"),
            ("listen = 'unix:relative'", "unix:relative"),
            ("max_connections = 0", "max_connections"),
            ("[tls]\ncert = 'a'", "cert"),
        ] {
            let error = toml::from_str::<ProxyConfig>(text).unwrap_err().to_string();
            assert!(error.contains(names), "{text}: {error}");
        }
    }
}
