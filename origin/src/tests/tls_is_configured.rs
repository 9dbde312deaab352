//! A registry's own authority is trusted, others are not, and a client certificate is shown.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::*;
use crate::Failure;

struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, addr) = self.tcp.accept().await.unwrap();
            // A client that does not trust this server, or shows no certificate, ends here.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, addr);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// An authority in `folder`/ca.crt, a client certificate beside it, and a server that wants that one.
async fn serve(folder: &Path) -> (SocketAddr, JoinHandle<()>) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join("ca.crt"), authority.pem()).unwrap();

    let client_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["node".to_owned()]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client = params.signed_by(&client_key, &authority).unwrap();
    std::fs::write(folder.join("client.cert"), client.pem()).unwrap();
    std::fs::write(folder.join("client.key"), client_key.serialize_pem()).unwrap();

    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let server = params.signed_by(&key, &authority).unwrap();

    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = tcp.local_addr().unwrap();
    let listener = TlsListener { tcp, acceptor: TlsAcceptor::from(Arc::new(config)) };
    let app = Router::new().fallback(async || answer(200, &[("content-length", "5")], "12345"));
    (addr, tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }))
}

#[tokio::test]
async fn authority_and_client_certificate_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let (addr, server) = serve(dir.path()).await;
    let folder = dir.path().display();
    let size = async |config: String| {
        let origin = origin("registry.test", &format!("url = 'https://{addr}'\n{config}"));
        let found = origin.head_blob(&repository(), &digest_of(b"x"), &Identity::Anonymous).await;
        found.map_err(|error| error.failure().clone())
    };
    let ca = format!("ca_file = '{folder}/ca.crt'");
    let client = format!("client_cert = '{folder}/client.cert'\nclient_key = '{folder}/client.key'");
    assert_eq!(size(format!("{ca}\n{client}")).await, Ok(5));
    assert!(matches!(size(client).await, Err(Failure::Unreachable { .. })), "an unknown authority");
    assert!(matches!(size(ca).await, Err(Failure::Unreachable { .. })), "no client certificate");
    server.abort();
}

#[tokio::test]
async fn unusable_files_are_found_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.crt");
    std::fs::write(&file, "nonsense").unwrap();
    for path in [file, dir.path().join("absent")] {
        let config = format!("[registries.'r.test']\nca_file = '{}'", path.display());
        let error = Origins::new(toml::from_str(&config).unwrap()).unwrap_err();
        assert!(error.to_string().contains("r.test"), "{error}");
    }
}
