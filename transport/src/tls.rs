//! Mutual TLS between members: for QUIC, and for gRPC.

use std::sync::Arc;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CipherSuite, RootCertStore, version::TLS13};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use shoal_proto::NodeId;
use tonic::transport::{Certificate, ClientTlsConfig, Identity as PemIdentity, ServerTlsConfig};

use crate::cluster::{Cluster, ClusterError, SERVER_NAME, key_pair};
use crate::identity::{Identity, pkcs8};

/// What a node shows to others and demands of them.
#[derive(Clone)]
pub struct MutualTls {
    node: NodeId,
    authority: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    seed: [u8; 32],
    authority_pem: String,
    certificate_pem: String,
    key_pem: String,
}

/// Why mutual TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error("set up TLS: {0}")]
    Rustls(#[from] rustls::Error),
    #[error("set up the check of members' certificates: {0}")]
    Verifier(#[from] VerifierBuilderError),
    #[error("set up TLS for QUIC: {0}")]
    Quic(#[from] NoInitialCipherSuite),
    #[error("write the node's key as PEM: {0}")]
    Pem(#[from] rcgen::Error),
}

/// ring, with AES-128-GCM first: it costs a core half of what ChaCha20 does.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

// What precedes the key in the SubjectPublicKeyInfo of an Ed25519 key (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The node that a member's certificate names by its key. TLS has verified the certificate by then.
pub(crate) fn node_of_chain(chain: &[CertificateDer<'_>]) -> Option<NodeId> {
    let certificate = webpki::EndEntityCert::try_from(chain.first()?).ok()?;
    let spki = certificate.subject_public_key_info();
    NodeId::from_slice(spki.as_ref().strip_prefix(&SPKI_PREFIX)?).ok()
}

/// The node that sent a gRPC request; `None` when the server does not use [`MutualTls`].
pub fn node_of<T>(request: &tonic::Request<T>) -> Option<NodeId> {
    node_of_chain(&request.peer_certs()?)
}

impl MutualTls {
    /// Makes `identity` a member of `cluster`.
    pub fn new(cluster: &Cluster, identity: &Identity) -> Result<Self, TlsError> {
        let certificate = cluster.certify(identity)?;
        Ok(Self {
            node: identity.node(),
            authority: cluster.authority_der(),
            chain: vec![certificate.der().clone()],
            seed: *identity.seed(),
            authority_pem: cluster.authority().pem(),
            certificate_pem: certificate.pem(),
            key_pem: key_pair(identity.seed())?.serialize_pem(),
        })
    }

    /// Who this node is.
    pub fn node(&self) -> NodeId {
        self.node
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone())?;
        Ok(Arc::new(roots))
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(pkcs8(&self.seed))
    }

    // No resumption on either side: links live long, and a full handshake shows the certificate each time.

    /// For a QUIC endpoint that speaks `alpn`: takes calls of members only.
    pub fn quic_server(&self, alpn: &[u8]) -> Result<QuicServerConfig, TlsError> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.roots()?, provider()).build()?;
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(self.chain.clone(), self.key())?;
        config.alpn_protocols = vec![alpn.to_vec()];
        config.send_tls13_tickets = 0;
        Ok(config.try_into()?)
    }

    /// For a QUIC endpoint that speaks `alpn`: calls members only, by the name `shoal.cluster`.
    pub fn quic_client(&self, alpn: &[u8]) -> Result<QuicClientConfig, TlsError> {
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(self.chain.clone(), self.key())?;
        config.alpn_protocols = vec![alpn.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config.try_into()?)
    }

    fn pem_identity(&self) -> PemIdentity {
        PemIdentity::from_pem(&self.certificate_pem, &self.key_pem)
    }

    pub(crate) fn grpc_server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(self.pem_identity())
            .client_ca_root(Certificate::from_pem(&self.authority_pem))
    }

    pub(crate) fn grpc_client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .identity(self.pem_identity())
            .ca_certificate(Certificate::from_pem(&self.authority_pem))
            .domain_name(SERVER_NAME)
    }
}

impl std::fmt::Debug for MutualTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MutualTls").field("node", &self.node).finish_non_exhaustive()
    }
}
