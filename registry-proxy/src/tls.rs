//! TLS of the listeners.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::TlsConfig;

/// Why the configured certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {source}", path.display())]
    Pem { path: PathBuf, source: pem::Error },
    #[error("{} and its key cannot be used: {source}", path.display())]
    Certificate { path: PathBuf, source: rustls::Error },
}

impl TlsConfig {
    /// Whether the files are there and hold a certificate and its key.
    pub fn check(&self) -> Result<(), TlsError> {
        acceptor(self).map(|_| ())
    }
}

pub(crate) fn acceptor(config: &TlsConfig) -> Result<TlsAcceptor, TlsError> {
    let unreadable = |path: &PathBuf| {
        let path = path.clone();
        move |source| TlsError::Pem { path, source }
    };
    let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&config.cert_file)
        .and_then(Iterator::collect)
        .map_err(unreadable(&config.cert_file))?;
    let key = PrivateKeyDer::from_pem_file(&config.key_file).map_err(unreadable(&config.key_file))?;
    let unusable = |source| TlsError::Certificate { path: config.cert_file.clone(), source };
    let mut server = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .map_err(unusable)?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(server)))
}
