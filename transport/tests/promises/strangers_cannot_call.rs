//! A stranger's own TLS would turn a member down before the member could turn it down. So these callers check
//! nothing, and it is the member who must refuse.

use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Endpoint};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use shoal_transport::{Bulk, grpc};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::support::{Node, nothing, soon, tls};

/// Takes every server for what it says.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// One without a certificate, and one that certified itself under the cluster's name.
fn strangers(alpn: &[u8]) -> Vec<rustls::ClientConfig> {
    let builder = || {
        rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible))
    };
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut params = rcgen::CertificateParams::new(["shoal.cluster".to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "shoal cluster");
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let mut configs = vec![
        builder().with_no_client_auth(),
        builder().with_client_auth_cert(vec![certificate], key).unwrap(),
    ];
    configs.iter_mut().for_each(|config| config.alpn_protocols = vec![alpn.to_vec()]);
    configs
}

#[tokio::test]
async fn a_neighbour() {
    let mut node = Node::new(1, nothing());
    for config in strangers(b"shoal/2") {
        let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(ClientConfig::new(Arc::new(
            QuicClientConfig::try_from(config).unwrap(),
        )));
        let connecting = endpoint.connect(node.endpoint.local_addr(), "shoal.cluster").unwrap();
        // The caller's half of the handshake may be done before it is refused.
        if let Ok(connection) = soon("a handshake", connecting).await {
            let mut sender = connection.open_uni().await.unwrap();
            // Fails when the refusal is there already.
            let _ = sender.write_all(b"instance").await;
            soon("a refusal", connection.closed()).await;
        }
        assert_eq!(node.events(), []);
        assert_eq!(node.endpoint.links(), []);
    }
}

#[tokio::test]
async fn a_tracker() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    let server = grpc::server(&tls(1))
        .unwrap()
        .add_service(grpc::tracker_service(crate::grpc_is_for_members::Echo(called)));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(server.serve_with_incoming(incoming));
    for config in strangers(b"h2") {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("shoal.cluster").unwrap();
        let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
        // The caller's half of the handshake may be done before it is refused.
        if let Ok(mut stream) = soon("a handshake", connecting).await {
            // A server that took the caller would speak first: HTTP/2 settings.
            let heard = soon("a refusal", stream.read(&mut [0; 64])).await;
            assert!(matches!(heard, Err(_) | Ok(0)), "{heard:?}");
        }
    }
    assert!(calls.try_recv().is_err());
}
