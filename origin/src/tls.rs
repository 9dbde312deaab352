//! TLS towards registries.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_platform_verifier::Verifier;

use crate::config::{ClientCertificate, ConfigError, Settings};

/// TLS for a registry: the system's authorities, those of its `ca_file`, and its client certificate. Which
/// protocol is spoken inside is settled by ALPN.
pub(crate) fn client_config(settings: &Settings) -> Result<ClientConfig, ConfigError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let fail = |path: &Path, reason: String| ConfigError::Certificate {
        registry: settings.name.clone(),
        path: path.to_path_buf(),
        reason,
    };
    let extra = match &settings.ca_file {
        Some(path) => certificates(path).map_err(|reason| fail(path, reason))?,
        None => Vec::new(),
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| client_error(settings, &error))?;
    let builder = match Verifier::new_with_extra_roots(extra, provider) {
        Ok(verifier) => builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)),
        Err(error) if settings.ca_file.is_some() => return Err(client_error(settings, &error)),
        Err(error) => {
            // A machine without any authority can still use registries with a ca_file or plain HTTP.
            tracing::warn!(registry = %settings.name, %error, "TLS to this registry will fail");
            builder.with_root_certificates(RootCertStore::empty())
        }
    };
    let mut config = match &settings.client {
        Some(ClientCertificate { cert, key }) => {
            let chain = certificates(cert).map_err(|reason| fail(cert, reason))?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| fail(key, error.to_string()))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| fail(cert, error.to_string()))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn client_error(settings: &Settings, error: &rustls::Error) -> ConfigError {
    ConfigError::Client { registry: settings.name.clone(), reason: error.to_string() }
}

fn certificates(path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|e| e.to_string())?.collect();
    let all = all.map_err(|e| e.to_string())?;
    if all.is_empty() { Err("it holds no certificate".to_owned()) } else { Ok(all) }
}
