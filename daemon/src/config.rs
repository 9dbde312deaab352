//! The daemon's configuration file, and what it resolves to.
//!
//! The structs mirror the file: TOML, unknown keys refused with their line, every key with a default.
//! [`ConfigFile::resolve`] gives a type without options left to unwrap.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use http::Uri;
use serde::Deserialize;
use shoal_origin::{OriginsConfig, RegistryConfig};
use shoal_proto::message::{Place, limit};
use shoal_registry_proxy::{ListenAddress, ProxyConfig, TlsConfig, deserialize_listen};
use shoal_transport::{ClusterSection, hint};

/// The file, section by section.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConfigFile {
    pub node: NodeSection,
    pub mirror: MirrorSection,
    pub peers: PeersSection,
    pub scheduler: SchedulerSection,
    pub cluster: ClusterSection,
    pub admin: AdminSection,
    pub limits: LimitsSection,
    pub lazy: LazySection,
}

/// `[node]`
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSection {
    /// Where the identity key and the cached blobs live.
    pub data_dir: PathBuf,
    /// Crossing zones costs: a chunk enters a zone once.
    pub zone: String,
    pub rack: String,
}

impl Default for NodeSection {
    fn default() -> Self {
        Self { data_dir: "/var/lib/shoal".into(), zone: String::new(), rack: String::new() }
    }
}

/// `[mirror]`: how clients reach this node, and which registries it fronts.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MirrorSection {
    /// One address or several: `"127.0.0.1:5100"`, `"unix:/path"`, `"systemd"` or `"systemd:name"`.
    #[serde(deserialize_with = "deserialize_listen")]
    pub listen: Vec<ListenAddress>,
    pub tls: Option<TlsConfig>,
    /// Whether a ping without credentials is answered 401: podman, skopeo and CRI-O show theirs only then.
    pub challenge: bool,
    pub max_connections: NonZeroUsize,
    /// How long responses may go on after the daemon was told to stop.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    pub default_registry: String,
    /// Registries that may be asked besides those below; `"*"` for any. Default: well-known public ones.
    pub allow: Option<Vec<String>>,
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Folder with `<host[:port]>/{ca.crt,client.cert,client.key}`, as container engines keep it.
    pub certs_dir: Option<PathBuf>,
    /// Whether `HTTPS_PROXY` and its kin count.
    pub system_proxy: bool,
    /// How long a tag's answer is used before the origin is asked again.
    #[serde(with = "humantime_serde")]
    pub tag_ttl: Duration,
    /// How old an answer may be that is served because the origin cannot be asked: a tag's, or that a
    /// repository is open to anybody, or that a caller was authorised.
    #[serde(with = "humantime_serde")]
    pub max_stale: Duration,
    /// How long an origin's word on what a caller may read is used before it is asked again.
    #[serde(with = "humantime_serde")]
    pub access_ttl: Duration,
}

impl Default for MirrorSection {
    fn default() -> Self {
        let proxy = ProxyConfig::default();
        let origins = OriginsConfig::default();
        Self {
            listen: proxy.listen,
            tls: None,
            challenge: proxy.challenge,
            max_connections: proxy.max_connections,
            drain: proxy.drain,
            default_registry: origins.default_registry,
            allow: origins.allow,
            registries: origins.registries,
            certs_dir: origins.certs_dir,
            system_proxy: origins.system_proxy,
            tag_ttl: Duration::from_secs(2),
            max_stale: Duration::from_secs(24 * 3600),
            access_ttl: Duration::from_secs(300),
        }
    }
}

/// `[peers]`: the chunk endpoint.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeersSection {
    /// QUIC, UDP; default: port 5103 of all addresses, or of loopback without a cluster secret.
    pub listen: Option<SocketAddr>,
    /// Addresses under which other nodes reach this one; default: the listening address, or, if that is
    /// unspecified, the local address from which the scheduler is reached.
    pub advertise: Vec<SocketAddr>,
}

const PEERS_PORT: u16 = 5103;
const SCHEDULER_PORT: u16 = 5101;

/// `[scheduler]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerSection {
    /// `https://host:5101`, tried in this order. None: this node is a cluster of its own.
    pub urls: Vec<String>,
}

/// `[admin]`: metrics, health, status.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSection {
    pub listen: SocketAddr,
}

impl Default for AdminSection {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 5105).into() }
    }
}

/// `[limits]`: sizes as `"50GiB"`, rates in bytes per second as `"100MiB"`. None: unlimited.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsSection {
    pub disk: Option<ByteSize>,
    pub upload: Option<ByteSize>,
    pub download: Option<ByteSize>,
    pub origin: Option<ByteSize>,
    /// Bytes of chunks in memory at once. Default: 96 MiB.
    pub memory: Option<ByteSize>,
}

/// `[lazy]`: layers that are read in parts.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LazySection {
    /// Whether this node builds the indexes of the layers that it has whole.
    pub index: bool,
    /// Who must vouch for an index that this node did not build itself.
    pub index_trust: IndexTrust,
    /// Where `shoal fs` connects; default: `lazy.sock` in the data folder.
    pub socket: Option<PathBuf>,
}

impl Default for LazySection {
    fn default() -> Self {
        Self { index: true, index_trust: IndexTrust::default(), socket: None }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IndexTrust {
    /// One member that built it.
    #[default]
    Member,
    /// Two members that built the same.
    Two,
}

impl IndexTrust {
    /// How many members that is.
    pub(crate) fn builders(self) -> usize {
        match self {
            Self::Member => 1,
            Self::Two => 2,
        }
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
        "[peers] listen = \"{0}\" needs a cluster secret: run `shoal cluster init` and set [cluster] secret_file, or listen on 127.0.0.1"
    )]
    OpenWithoutSecret(SocketAddr),
    #[error("[node] {key} has more than {max} characters", max = limit::NAME)]
    NameTooLong { key: &'static str },
    #[error("[peers] advertise has more than {max} addresses", max = limit::ADDRESSES)]
    TooManyAddresses,
    #[error("[limits] {key} must be at least {least}")]
    TooSmall { key: &'static str, least: ByteSize },
    #[error(
        "[scheduler] urls: {url:?} must be https://HOST or https://HOST:PORT (a scheduler listens on {SCHEDULER_PORT})"
    )]
    SchedulerUrl { url: String },
    #[error(
        "[scheduler] urls: {url:?} is another machine, which needs a cluster secret: copy the scheduler's and set [cluster] secret_file"
    )]
    SchedulerWithoutSecret { url: String },
    #[error("[mirror] {key}")]
    Missing { key: String, source: MissingError },
}

/// A file or folder that the configuration names and that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {source}", .path.display())]
pub struct MissingError {
    path: PathBuf,
    source: std::io::Error,
}

/// What the daemon runs with.
#[derive(Clone, Debug)]
pub struct Config {
    pub data_dir: PathBuf,
    pub place: Place,
    pub proxy: ProxyConfig,
    pub origins: OriginsConfig,
    pub freshness: Freshness,
    pub peers_listen: SocketAddr,
    pub advertise: Vec<SocketAddr>,
    pub scheduler_urls: Vec<String>,
    pub cluster: ClusterSection,
    pub admin_listen: SocketAddr,
    pub limits: Limits,
    pub lazy: Lazy,
}

/// Layers that are read in parts.
#[derive(Clone, Debug)]
pub struct Lazy {
    pub index: bool,
    pub index_trust: IndexTrust,
    /// `None`: where it is by default, if that can be.
    pub socket: Option<PathBuf>,
}

/// How long answers of origins count.
#[derive(Clone, Copy, Debug)]
pub struct Freshness {
    pub tag_ttl: Duration,
    pub max_stale: Duration,
    pub access_ttl: Duration,
}

/// Bounds; rates in bytes per second.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub disk: Option<u64>,
    pub upload: Option<u64>,
    pub download: Option<u64>,
    pub origin: Option<u64>,
    pub memory: u64,
}

// Four chunks of 16 MiB from peers, two that wait to be written, and room for what clients read; six on a slow line, which
// come slowly. All smaller chunks leave far more room.
const DEFAULT_MEMORY: ByteSize = ByteSize::mib(96);
/// Below this a chunk of the largest size and a client's blocks do not fit.
const LEAST_MEMORY: ByteSize = ByteSize::mib(32);
/// A store that cannot hold two large chunks serves nobody.
const LEAST_DISK: ByteSize = ByteSize::mib(64);
/// A rate below this cannot keep a client's 30 s timeout away.
const LEAST_RATE: ByteSize = ByteSize::kib(64);

impl ConfigFile {
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

    /// Checks what depends on other keys, and fills in defaults.
    pub fn resolve(self) -> Result<Config, ConfigError> {
        let limits = self.limits.resolve()?;
        for (key, value) in [("zone", &self.node.zone), ("rack", &self.node.rack)] {
            if value.len() > limit::NAME {
                return Err(ConfigError::NameTooLong { key });
            }
        }
        if self.peers.advertise.len() > limit::ADDRESSES {
            return Err(ConfigError::TooManyAddresses);
        }
        let peers_listen = self.peers_listen()?;
        let secret = self.cluster.secret_file.is_some();
        let urls = self.scheduler.urls.iter().map(|url| scheduler_url(url, secret));
        let scheduler_urls = urls.collect::<Result<_, _>>()?;
        self.mirror.check_files()?;
        let mirror = self.mirror;
        let LazySection { index, index_trust, socket } = self.lazy;
        Ok(Config {
            lazy: Lazy { index, index_trust, socket },
            data_dir: self.node.data_dir,
            place: Place { zone: self.node.zone.into(), rack: self.node.rack.into() },
            proxy: ProxyConfig {
                listen: mirror.listen,
                tls: mirror.tls,
                challenge: mirror.challenge,
                max_connections: mirror.max_connections,
                drain: mirror.drain,
            },
            origins: OriginsConfig {
                default_registry: mirror.default_registry,
                allow: mirror.allow,
                registries: mirror.registries,
                certs_dir: mirror.certs_dir,
                system_proxy: mirror.system_proxy,
                ..OriginsConfig::default()
            },
            freshness: Freshness {
                tag_ttl: mirror.tag_ttl,
                max_stale: mirror.max_stale,
                access_ttl: mirror.access_ttl,
            },
            peers_listen,
            advertise: self.peers.advertise,
            scheduler_urls,
            cluster: self.cluster,
            admin_listen: self.admin.listen,
            limits,
        })
    }

    /// Without a secret anybody could join, so the endpoint stays on loopback.
    fn peers_listen(&self) -> Result<SocketAddr, ConfigError> {
        let default = (Ipv4Addr::UNSPECIFIED, PEERS_PORT).into();
        let allowed = self.cluster.listen(self.peers.listen, default);
        allowed.ok_or(ConfigError::OpenWithoutSecret(self.peers.listen.unwrap_or(default)))
    }
}

/// The URL with its port. Without a secret nobody outside this machine would talk to this node.
fn scheduler_url(text: &str, has_secret: bool) -> Result<String, ConfigError> {
    let wrong = || ConfigError::SchedulerUrl { url: text.to_owned() };
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https") && bare).ok_or_else(wrong)?;
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let here = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    if !has_secret && !here {
        return Err(ConfigError::SchedulerWithoutSecret { url: text.to_owned() });
    }
    Ok(format!("https://{host}:{}", uri.port_u16().unwrap_or(SCHEDULER_PORT)))
}

impl MirrorSection {
    /// What is read only when a registry is asked must be there at the start: then somebody looks.
    fn check_files(&self) -> Result<(), ConfigError> {
        let missing = |key: String, path: &Path, source| {
            let source = MissingError { path: path.to_owned(), source };
            Err(ConfigError::Missing { key, source })
        };
        if let Some(folder) = &self.certs_dir
            && let Err(source) = std::fs::read_dir(folder)
        {
            return missing("certs_dir".to_owned(), folder, source);
        }
        for (name, registry) in &self.registries {
            let password = registry.credentials.as_ref().and_then(|login| login.password_file.as_ref());
            for (key, file) in
                [("password_file", password), ("docker_config", registry.docker_config.as_ref())]
            {
                if let Some(file) = file
                    && let Err(source) = std::fs::File::open(file)
                {
                    return missing(format!("registries.\"{name}\": {key}"), file, source);
                }
            }
        }
        Ok(())
    }
}

impl LimitsSection {
    fn resolve(&self) -> Result<Limits, ConfigError> {
        let memory = self.memory.unwrap_or(DEFAULT_MEMORY);
        let checks = [
            ("disk", self.disk, LEAST_DISK),
            ("upload", self.upload, LEAST_RATE),
            ("download", self.download, LEAST_RATE),
            ("origin", self.origin, LEAST_RATE),
            ("memory", Some(memory), LEAST_MEMORY),
        ];
        for (key, value, least) in checks {
            if value.is_some_and(|value| value < least) {
                return Err(ConfigError::TooSmall { key, least });
            }
        }
        let bytes = |size: Option<ByteSize>| size.map(|size| size.as_u64());
        Ok(Limits {
            disk: bytes(self.disk),
            upload: bytes(self.upload),
            download: bytes(self.download),
            origin: bytes(self.origin),
            memory: memory.as_u64(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        let file: ConfigFile = toml::from_str(text).map_err(|source| ConfigError::Parse {
            path: "shoal.toml".into(),
            hint: "",
            source: Box::new(source),
        })?;
        file.resolve()
    }

    #[test]
    fn an_empty_file_is_a_lone_node_on_loopback() {
        let config = parse("").unwrap();
        assert!(config.peers_listen.ip().is_loopback());
        assert!(config.scheduler_urls.is_empty());
        assert_eq!(config.freshness.tag_ttl, Duration::from_secs(2));
    }

    #[test]
    fn a_typo_is_refused_with_its_line() {
        let error = parse("[node]\nzone = 'a'\n[mirror]\ntagttl = '3s'\n").unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        let error = format!("{error}: {cause}");
        assert!(
            error.contains("shoal.toml") && error.contains("line 4") && error.contains("tagttl"),
            "{error}"
        );
    }

    #[test]
    fn an_open_endpoint_needs_a_secret() {
        for open in ["10.0.0.1:5103", "0.0.0.0:5103"] {
            let text = format!("[peers]\nlisten = '{open}'");
            assert!(matches!(parse(&text), Err(ConfigError::OpenWithoutSecret(_))), "{open}");
        }
        let config = parse("[cluster]\nsecret_file = '/etc/shoal/secret'").unwrap();
        assert!(config.peers_listen.ip().is_unspecified());
    }

    #[test]
    fn schedulers_are_named_in_full_and_others_than_this_machine_need_a_secret() {
        let of = |url: &str, secret: &str| parse(&format!("{secret}[scheduler]\nurls = ['{url}']"));
        let secret = "[cluster]\nsecret_file = '/etc/shoal/secret'\n";
        let config = of("https://scheduler.example.com", secret).unwrap();
        assert_eq!(config.scheduler_urls, ["https://scheduler.example.com:5101"]);
        for here in ["https://localhost:5", "https://127.0.0.1:5", "https://[::1]:5"] {
            assert_eq!(of(here, "").unwrap().scheduler_urls, [here]);
        }
        for wrong in ["scheduler:5101", "scheduler", "http://scheduler:5101", "https://", "https://a/b", ""] {
            assert!(matches!(of(wrong, secret), Err(ConfigError::SchedulerUrl { .. })), "{wrong}");
        }
        let without = of("https://scheduler.example.com:5101", "");
        assert!(matches!(without, Err(ConfigError::SchedulerWithoutSecret { .. })));
    }

    #[test]
    fn files_that_are_not_there_are_told_at_the_start() {
        let login = "[mirror.registries.'r.example'.credentials]\nusername = 'u'\npassword_file = '/no/such'";
        for text in ["[mirror]\ncerts_dir = '/no/such'", login] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, ConfigError::Missing { .. }), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_have_units_and_lower_bounds() {
        let config = parse("[limits]\ndisk = '50GiB'\nupload = '100MiB'").unwrap();
        assert_eq!(config.limits.disk, Some(50 << 30));
        assert_eq!(config.limits.upload, Some(100 << 20));
        assert!(matches!(parse("[limits]\ndisk = '1MiB'"), Err(ConfigError::TooSmall { key: "disk", .. })));
        assert!(parse("[limits]\ndisk = 'much'").is_err());
    }
}
