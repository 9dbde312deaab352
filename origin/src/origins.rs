//! All origins of a node: which there may be, and one of each.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use shoal_proto::RegistryName;
use url::Url;

use crate::address::AddressRules;
use crate::config::{ConfigError, Location, OriginsConfig, Settings};
use crate::counters::{CounterSnapshot, Counters};
use crate::error::{Failure, OriginError, Refusal};
use crate::http_client::{HttpClient, Timeouts};
use crate::layout_folder::LayoutFolder;
use crate::origin::{Backend, Origin};
use crate::realm::registrable_domain;
use crate::registry::Registry;
use crate::well_known;

// Registries admitted by name that are kept at once. Each has connections of its own; with `"*"` allowed their
// names come from clients.
const MAX_ADMITTED: usize = 64;

// Where proxies are configured, as the HTTP client reads it.
const PROXY_VARIABLES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// All origins of a node. Cheap to clone.
#[derive(Clone)]
pub struct Origins {
    shared: Arc<Shared>,
}

struct Shared {
    default_registry: RegistryName,
    allowed: Allowed,
    configured: HashMap<RegistryName, Arc<Origin>>,
    admitted: Mutex<Admitted>,
    factory: Factory,
}

enum Allowed {
    All,
    WellKnown,
    Listed(Vec<RegistryName>),
}

#[derive(Default)]
struct Admitted {
    origins: HashMap<RegistryName, (Arc<Origin>, u64)>,
    /// Counts admissions, to tell which origin was used last.
    clock: u64,
}

/// What all origins are made with.
struct Factory {
    certs_dir: Option<std::path::PathBuf>,
    timeouts: Timeouts,
    system_proxy: bool,
    proxies: Vec<String>,
}

impl Origins {
    /// Checks the whole configuration, certificates included.
    pub fn new(config: OriginsConfig) -> Result<Self, ConfigError> {
        let factory = Factory {
            certs_dir: config.certs_dir,
            timeouts: Timeouts { connect: config.connect_timeout, read: config.read_timeout },
            system_proxy: config.system_proxy,
            proxies: if config.system_proxy { proxy_hosts() } else { Vec::new() },
        };
        let default_registry = canonical(&config.default_registry)?;
        let mut configured = HashMap::new();
        for (text, registry) in &config.registries {
            let settings = Settings::resolve(canonical(text)?, registry, factory.certs_dir.as_ref())?;
            configured.insert(settings.name.clone(), factory.origin(settings)?);
        }
        let allowed = match &config.allow {
            None => Allowed::WellKnown,
            Some(list) if list.iter().any(|name| name == "*") => Allowed::All,
            Some(list) => Allowed::Listed(list.iter().map(|name| canonical(name)).collect::<Result<_, _>>()?),
        };
        let admitted = Mutex::default();
        Ok(Self { shared: Arc::new(Shared { default_registry, allowed, configured, admitted, factory }) })
    }

    /// The registry of requests that name none.
    pub fn default_registry(&self) -> &RegistryName {
        &self.shared.default_registry
    }

    /// The origin of this name, if it may be asked. Docker Hub's other names lead to `docker.io`.
    pub fn admit(&self, name: &RegistryName) -> Result<Arc<Origin>, OriginError> {
        let shared = &*self.shared;
        let name = well_known::canonical_name(name).unwrap_or_else(|| name.clone());
        if let Some(origin) = shared.configured.get(&name) {
            return Ok(origin.clone());
        }
        let allowed = name == shared.default_registry
            || match &shared.allowed {
                Allowed::All => true,
                Allowed::WellKnown => well_known::is_public_registry(&name),
                Allowed::Listed(list) => list.contains(&name),
            };
        if !allowed {
            let refusal = Refusal::NotAllowed(name.to_string());
            return Err(OriginError::new(format!("use {name}"), Failure::Refused(refusal)));
        }
        let mut admitted = shared.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(origin) = admitted.get(&name) {
            return Ok(origin);
        }
        let origin = shared.factory.unconfigured(name)?;
        admitted.insert(origin.clone());
        Ok(origin)
    }

    /// The counters of all origins that were used, by name.
    pub fn counters(&self) -> Vec<(RegistryName, CounterSnapshot)> {
        let admitted = self.shared.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        let lazily = admitted.origins.values().map(|(origin, _)| origin);
        let all = self.shared.configured.values().chain(lazily);
        all.map(|origin| (origin.name().clone(), origin.counters())).collect()
    }
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Origins").field("configured", &self.shared.configured.keys()).finish_non_exhaustive()
    }
}

impl Admitted {
    fn get(&mut self, name: &RegistryName) -> Option<Arc<Origin>> {
        self.clock += 1;
        let (origin, used) = self.origins.get_mut(name)?;
        *used = self.clock;
        Some(origin.clone())
    }

    fn insert(&mut self, origin: Arc<Origin>) {
        if self.origins.len() >= MAX_ADMITTED {
            // Whoever still reads from it keeps it until done.
            let oldest = self.origins.iter().min_by_key(|(_, (_, used))| *used).map(|(name, _)| name.clone());
            oldest.and_then(|name| self.origins.remove(&name));
        }
        self.origins.insert(origin.name().clone(), (origin, self.clock));
    }
}

impl Factory {
    /// An origin that only its name is known of.
    fn unconfigured(&self, name: RegistryName) -> Result<Arc<Origin>, OriginError> {
        let subject = format!("use {name}");
        let refuse = |refusal| OriginError::new(subject.as_str(), Failure::Refused(refusal));
        let settings = Settings::unconfigured(name, self.certs_dir.as_ref())
            .map_err(|_| refuse(Refusal::Url(subject.clone())))?;
        if let Location::Registry(url) = &settings.location {
            self.rules(&settings, url).check(url).map_err(refuse)?;
        }
        self.origin(settings).map_err(|error| {
            OriginError::new(subject.as_str(), Failure::Unreachable { reason: error.to_string() })
        })
    }

    fn origin(&self, settings: Settings) -> Result<Arc<Origin>, ConfigError> {
        let counters = Arc::new(Counters::default());
        let backend = match &settings.location {
            Location::Folder(path) => Backend::Folder(LayoutFolder::new(settings.name.clone(), path.clone())),
            Location::Registry(url) => {
                let rules = self.rules(&settings, url);
                let http =
                    HttpClient::new(&settings, rules, self.timeouts, self.system_proxy, counters.clone())?;
                Backend::Registry(Registry::new(&settings, url.clone(), http))
            }
        };
        Ok(Arc::new(Origin::new(settings.name, backend, settings.anonymous_only, counters)))
    }

    fn rules(&self, settings: &Settings, url: &Url) -> AddressRules {
        let host = |url: &Url| url.host_str().map(str::to_owned);
        let mut rules = AddressRules { proxies: self.proxies.clone(), ..AddressRules::default() };
        if settings.configured {
            rules.trusted_hosts = settings.private_hosts.clone();
            rules.trusted_hosts.extend(settings.realms.iter().chain([url]).filter_map(host));
            rules.trusted_domain = url.host_str().and_then(registrable_domain).map(str::to_owned);
        }
        rules
    }
}

fn canonical(text: &str) -> Result<RegistryName, ConfigError> {
    let name: RegistryName = text.parse()?;
    Ok(well_known::canonical_name(&name).unwrap_or(name))
}

/// The hosts of the proxies in the environment. Without them the rules about addresses would refuse to
/// resolve a proxy's name.
fn proxy_hosts() -> Vec<String> {
    let values = PROXY_VARIABLES.iter().filter_map(|name| std::env::var(name).ok());
    values
        .filter_map(|value| {
            let url = if value.contains("://") { value } else { format!("http://{value}") };
            Url::parse(&url).ok()?.host_str().map(str::to_owned)
        })
        .collect()
}
