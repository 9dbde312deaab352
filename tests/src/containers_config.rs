//! The configuration files that podman and skopeo share.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::http::Credentials;

#[derive(Debug)]
pub(crate) struct ContainersConfig {
    pub(crate) registries: PathBuf,
    pub(crate) auth: PathBuf,
    pub(crate) policy: PathBuf,
}

impl ContainersConfig {
    /// Makes `mirror` the mirror of the registry that `reference` names. Credentials are those for the
    /// mirror's own host: these clients send no others to a mirror.
    pub(crate) fn write(
        folder: &Path,
        reference: &str,
        mirror: SocketAddr,
        login: Option<&Credentials>,
    ) -> Self {
        let name = reference.split('/').next().unwrap();
        let registries = format!(
            "unqualified-search-registries = []\n[[registry]]\nprefix = \"{name}\"\nlocation = \"127.0.0.1:1\"\n\
             insecure = true\n[[registry.mirror]]\nlocation = \"{mirror}\"\ninsecure = true\n"
        );
        let auths =
            login.map_or(json!({}), |login| json!({ mirror.to_string(): { "auth": login.base64() } }));
        let config = Self {
            registries: folder.join("registries.conf"),
            auth: folder.join("auth.json"),
            policy: folder.join("policy.json"),
        };
        std::fs::write(&config.registries, registries).unwrap();
        std::fs::write(&config.auth, json!({ "auths": auths }).to_string()).unwrap();
        std::fs::write(&config.policy, r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
        config
    }
}
