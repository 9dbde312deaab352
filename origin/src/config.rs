//! Which registries there are and how to reach them: as configured, and resolved once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use shoal_proto::{RegistryName, RegistryNameError};
use url::Url;

use crate::credentials::{CredentialSource, Secret};
use crate::well_known;

/// All registries that a node may ask.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OriginsConfig {
    /// The registry of requests that name none. Default: `docker.io`.
    pub default_registry: String,
    /// Names of registries that may be asked besides the configured ones; `"*"` allows every name.
    /// Default: the well-known public registries.
    pub allow: Option<Vec<String>>,
    /// Registries by name.
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Folder with `<host[:port]>/{ca.crt,client.cert,client.key}`, as container engines keep it.
    pub certs_dir: Option<PathBuf>,
    /// Whether `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` count. Default: yes. A proxy resolves
    /// names itself, so rules about addresses then hold only for addresses written in URLs.
    pub system_proxy: bool,
    /// Time to connect, TLS included. Default: 3 s, which leaves room for one lost packet; a host that is not
    /// reached in that time is tried once in 5 s only.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Time without a byte, for headers and within bodies. Default: 30 s, as container clients have it.
    #[serde(with = "humantime_serde")]
    pub read_timeout: Duration,
}

impl Default for OriginsConfig {
    fn default() -> Self {
        Self {
            default_registry: "docker.io".to_owned(),
            allow: None,
            registries: BTreeMap::new(),
            certs_dir: None,
            system_proxy: true,
            connect_timeout: Duration::from_secs(3),
            read_timeout: Duration::from_secs(30),
        }
    }
}

/// How to reach one registry. A registry that is configured may have a private address.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RegistryConfig {
    /// `https://host[:port][/path]`, `http://…`, or `oci:/folder` for an OCI layout. Requests go to
    /// `<url>/v2/…`, or to `<url>/…` when its path has a part `v2` already. Default: from the name.
    pub url: Option<String>,
    pub credentials: Option<CredentialsConfig>,
    /// A `config.json` of docker to take the credentials from, helpers included.
    pub docker_config: Option<PathBuf>,
    /// PEM file of certificate authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the certificate that this node shows to the registry, and of its key.
    pub client_cert: Option<PathBuf>,
    pub client_key: Option<PathBuf>,
    /// Plain HTTP for a registry without `url`.
    pub plain_http: bool,
    /// Never send credentials, not even those of clients.
    pub anonymous_only: bool,
    /// URLs of token servers that may get this registry's credentials though they are on another domain.
    pub realms: Vec<String>,
    /// Hosts that this registry may redirect to though their addresses are private.
    pub private_hosts: Vec<String>,
}

/// A user, and either its password or a file with it (read whenever it is needed, so it may change).
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialsConfig {
    pub username: String,
    #[serde(default)]
    pub password: Option<String>,
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

impl fmt::Debug for CredentialsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CredentialsConfig").field("username", &self.username).finish_non_exhaustive()
    }
}

/// What is wrong with the configuration of registries.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(transparent)]
    Name(#[from] RegistryNameError),
    #[error("registry {registry}: url {url:?} must be https://host, http://host or oci:/folder")]
    Url { registry: RegistryName, url: String },
    #[error("registry {registry}: plain_http contradicts its url, which is https")]
    PlainHttp { registry: RegistryName },
    #[error("registry {registry}: realm {realm:?} must be a URL with https:// or http://")]
    Realm { registry: RegistryName, realm: String },
    #[error("registry {registry}: private host {host:?} must be a host name or an address")]
    PrivateHost { registry: RegistryName, host: String },
    #[error("registry {registry}: give either password or password_file")]
    Password { registry: RegistryName },
    #[error("registry {registry}: give either credentials or docker_config")]
    TwoSources { registry: RegistryName },
    #[error("registry {registry}: client_cert and client_key belong together")]
    ClientCertificate { registry: RegistryName },
    #[error("registry {registry}: cannot use {path}: {reason}")]
    Certificate { registry: RegistryName, path: PathBuf, reason: String },
    #[error("registry {registry}: cannot set up its HTTP client: {reason}")]
    Client { registry: RegistryName, reason: String },
}

/// Where an origin's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Location {
    /// The URL that repositories are appended to; its path ends in `/`.
    Registry(Url),
    Folder(PathBuf),
}

/// A client certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct ClientCertificate {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// A registry's configuration, resolved.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) name: RegistryName,
    pub(crate) location: Location,
    pub(crate) credentials: CredentialSource,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) client: Option<ClientCertificate>,
    pub(crate) anonymous_only: bool,
    pub(crate) realms: Vec<Url>,
    pub(crate) private_hosts: Vec<String>,
    /// Named by the operator, rather than admitted by its name.
    pub(crate) configured: bool,
}

impl Settings {
    /// What holds for a registry that only its name is known of.
    pub(crate) fn unconfigured(name: RegistryName, certs_dir: Option<&PathBuf>) -> Result<Self, ConfigError> {
        let mut settings = Self::resolve(name, &RegistryConfig::default(), certs_dir)?;
        settings.configured = false;
        Ok(settings)
    }

    pub(crate) fn resolve(
        name: RegistryName,
        config: &RegistryConfig,
        certs_dir: Option<&PathBuf>,
    ) -> Result<Self, ConfigError> {
        let location = location(&name, config)?;
        let credentials = credential_source(&name, config)?;
        let mut ca_file = config.ca_file.clone();
        let mut client = match (&config.client_cert, &config.client_key) {
            (Some(cert), Some(key)) => Some(ClientCertificate { cert: cert.clone(), key: key.clone() }),
            (None, None) => None,
            _ => return Err(ConfigError::ClientCertificate { registry: name }),
        };
        if let Some(folder) = certs_dir.map(|dir| dir.join(name.as_str())) {
            let present = |file: &str| Some(folder.join(file)).filter(|path| path.is_file());
            ca_file = ca_file.or_else(|| present("ca.crt"));
            let pair = present("client.cert").zip(present("client.key"));
            client = client.or(pair.map(|(cert, key)| ClientCertificate { cert, key }));
        }
        let realm = |text: &String| {
            http_url(text).ok_or_else(|| ConfigError::Realm { registry: name.clone(), realm: text.clone() })
        };
        let host = |text: &String| {
            let wrong = || ConfigError::PrivateHost { registry: name.clone(), host: text.clone() };
            url::Host::parse(text).map(|host| host.to_string()).map_err(|_| wrong())
        };
        Ok(Self {
            location,
            credentials,
            ca_file,
            client,
            anonymous_only: config.anonymous_only,
            realms: config.realms.iter().map(realm).collect::<Result<_, _>>()?,
            private_hosts: config.private_hosts.iter().map(host).collect::<Result<_, _>>()?,
            configured: true,
            name,
        })
    }
}

fn http_url(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && url.has_host() && plain).then_some(url)
}

fn location(name: &RegistryName, config: &RegistryConfig) -> Result<Location, ConfigError> {
    if let Some(folder) = config.url.as_deref().and_then(|url| url.strip_prefix("oci:")) {
        return Ok(Location::Folder(PathBuf::from(folder)));
    }
    let scheme = if config.plain_http { "http" } else { "https" };
    let text = match &config.url {
        Some(url) => url.clone(),
        None => format!("{scheme}://{}", well_known::api_host(name)),
    };
    let wrong = || ConfigError::Url { registry: name.clone(), url: text.clone() };
    let mut url = http_url(&text).filter(|url| url.query().is_none()).ok_or_else(wrong)?;
    if config.plain_http && url.scheme() == "https" {
        return Err(ConfigError::PlainHttp { registry: name.clone() });
    }
    let path = url.path().trim_end_matches('/');
    let complete = path.split('/').any(|part| part == "v2");
    let path = if complete { format!("{path}/") } else { format!("{path}/v2/") };
    url.set_path(&path);
    Ok(Location::Registry(url))
}

fn credential_source(name: &RegistryName, config: &RegistryConfig) -> Result<CredentialSource, ConfigError> {
    let Some(given) = &config.credentials else {
        return Ok(config
            .docker_config
            .clone()
            .map_or(CredentialSource::None, CredentialSource::DockerConfig));
    };
    if config.docker_config.is_some() {
        return Err(ConfigError::TwoSources { registry: name.clone() });
    }
    let user = given.username.clone();
    match (&given.password, &given.password_file) {
        (Some(password), None) => {
            Ok(CredentialSource::Fixed { user, password: Secret::new(password.clone()) })
        }
        (None, Some(file)) => Ok(CredentialSource::PasswordFile { user, file: file.clone() }),
        _ => Err(ConfigError::Password { registry: name.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(name: &str, text: &str) -> Result<Settings, ConfigError> {
        Settings::resolve(name.parse().unwrap(), &toml::from_str(text).unwrap(), None)
    }

    fn url(name: &str, text: &str) -> String {
        match resolve(name, text).unwrap().location {
            Location::Registry(url) => url.to_string(),
            Location::Folder(path) => path.display().to_string(),
        }
    }

    #[test]
    fn urls_come_from_the_name_or_the_configuration() {
        for (name, text, want) in [
            ("docker.io", "", "https://registry-1.docker.io/v2/"),
            ("r.example:5000", "", "https://r.example:5000/v2/"),
            ("[::1]:5000", "plain_http = true", "http://[::1]:5000/v2/"),
            ("a.example", "url = 'http://10.0.0.1:80/'", "http://10.0.0.1/v2/"),
            (
                "a.example",
                "url = 'https://b.example/artifactory/api/docker/x'",
                "https://b.example/artifactory/api/docker/x/v2/",
            ),
            ("a.example", "url = 'https://b.example/v2/proxy'", "https://b.example/v2/proxy/"),
            ("a.example", "url = 'oci:/srv/layout'", "/srv/layout"),
        ] {
            assert_eq!(url(name, text), want);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for text in [
            "url = 'ftp://a'",
            "url = 'a.example:5000'",
            "url = 'https://user:pw@a.example'",
            "url = 'https://a.example'\nplain_http = true",
            "realms = ['auth.example']",
            "private_hosts = ['a/b']",
            "client_cert = '/c'",
            "credentials = { username = 'u' }",
            "credentials = { username = 'u', password = 'p', password_file = '/p' }",
            "credentials = { username = 'u', password = 'p' }\ndocker_config = '/c'",
        ] {
            assert!(resolve("a.example", text).is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_keys_are_refused_and_passwords_not_printed() {
        assert!(toml::from_str::<RegistryConfig>("pasword = 'x'").is_err());
        assert!(toml::from_str::<OriginsConfig>("registry = 'x'").is_err());
        let text = "[registries.'a.example'.credentials]\nusername = 'u'\npassword = 'horse'";
        let config: OriginsConfig = toml::from_str(text).unwrap();
        assert!(!format!("{config:?}").contains("horse"));
    }

    #[test]
    fn certificates_are_found_in_the_folder_of_container_engines() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a.example:5000");
        std::fs::create_dir(&folder).unwrap();
        for file in ["ca.crt", "client.cert", "client.key"] {
            std::fs::write(folder.join(file), "").unwrap();
        }
        let certs_dir = dir.path().to_path_buf();
        let of = |name: &str| {
            Settings::resolve(name.parse().unwrap(), &RegistryConfig::default(), Some(&certs_dir)).unwrap()
        };
        let found = of("a.example:5000");
        assert_eq!(found.ca_file, Some(folder.join("ca.crt")));
        assert_eq!(found.client.map(|c| c.key), Some(folder.join("client.key")));
        assert!(of("b.example").ca_file.is_none());
    }
}
