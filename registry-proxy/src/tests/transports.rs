//! The same API over HTTP/1.1 and HTTP/2, TLS and Unix sockets.

use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::client::{Mirror, Reply, http2, request, request2, send_http1};
use super::shelf::{Shelf, content, digest_of};
use crate::connection::Patience;
use crate::{ListenAddress, Listeners, Proxy, ProxyConfig, TlsConfig, TlsError};

fn shelf() -> Shelf {
    Shelf::default().with_blob(1, 2500, None)
}

fn path() -> String {
    format!("/v2/app/blobs/{}", digest_of(1))
}

#[tokio::test]
async fn http2_without_tls_by_prior_knowledge() {
    let mirror = Mirror::start(shelf()).await;
    let mut sender = http2(mirror.connect().await).await;
    let reply = Reply::read(sender.send_request(request2(&path())).await.unwrap()).await;
    assert_eq!(reply.bytes(), &content(2500));
    assert_eq!(reply.header("content-length"), "2500");
    let head = http::Request::head(format!("http://a{}", path())).body(http_body_util::Empty::new()).unwrap();
    let reply = Reply::read(sender.send_request(head).await.unwrap()).await;
    assert_eq!((reply.header("content-length"), reply.bytes().len()), ("2500", 0));
}

#[tokio::test]
async fn one_http1_connection_serves_request_after_request() {
    let mirror = Mirror::start(shelf()).await;
    let request = format!("GET {} HTTP/1.1\r\nhost: a\r\n\r\n", path());
    let last = "GET /v2/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answer = mirror.raw(format!("{request}{request}{last}").as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3);
    assert!(answer.ends_with("{}"));
}

async fn tls_mirror() -> (Mirror, RootCertStore, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["mirror.test".to_string()]).unwrap();
    let tls =
        TlsConfig { cert_file: folder.path().join("cert.pem"), key_file: folder.path().join("key.pem") };
    std::fs::write(&tls.cert_file, made.cert.pem()).unwrap();
    std::fs::write(&tls.key_file, made.signing_key.serialize_pem()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = ProxyConfig { tls: Some(tls), ..ProxyConfig::default() };
    (Mirror::start_with(shelf(), config, Patience::default()).await, roots, folder)
}

async fn tls_connect(mirror: &Mirror, roots: RootCertStore, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let name = ServerName::try_from("mirror.test").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, mirror.connect().await).await.unwrap()
}

#[tokio::test]
async fn tls_with_both_protocols() {
    let (mirror, roots, _folder) = tls_mirror().await;
    let stream = tls_connect(&mirror, roots.clone(), b"http/1.1").await;
    let reply = Reply::read(send_http1(stream, request("GET", &path(), &[])).await).await;
    assert_eq!(reply.bytes(), &content(2500));

    let stream = tls_connect(&mirror, roots, b"h2").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut sender = http2(stream).await;
    let reply = Reply::read(sender.send_request(request2(&path())).await.unwrap()).await;
    assert_eq!(reply.bytes(), &content(2500));
}

#[tokio::test]
async fn plain_text_to_a_tls_port_is_not_answered() {
    let (mirror, _, _folder) = tls_mirror().await;
    assert!(!mirror.raw(b"GET /v2/ HTTP/1.1\r\nhost: a\r\n\r\n").await.contains("200 OK"));
}

#[tokio::test]
async fn a_missing_or_wrong_certificate_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (cert_file, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let tls = TlsConfig { cert_file: cert_file.clone(), key_file };
    let config = ProxyConfig { tls: Some(tls), ..ProxyConfig::default() };
    let missing = Proxy::new(Arc::new(shelf()), &config).unwrap_err();
    assert!(missing.to_string().contains("cert.pem"));
    std::fs::write(cert_file, "not a certificate").unwrap();
    assert!(matches!(Proxy::new(Arc::new(shelf()), &config).unwrap_err(), TlsError::Pem { .. }));
}

#[tokio::test]
async fn a_unix_socket_replaces_a_dead_one_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("mirror.sock");
    let address = ListenAddress::Unix(socket.clone());
    // What a killed daemon leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let listeners = Listeners::bind(std::slice::from_ref(&address)).unwrap();
    assert!(Listeners::bind(std::slice::from_ref(&address)).is_err(), "a living socket is not taken over");

    let proxy = Proxy::new(Arc::new(shelf()), &ProxyConfig::default()).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(proxy.serve(listeners, async {
        let _ = stopped.await;
    }));
    let stream = UnixStream::connect(&socket).await.unwrap();
    let reply = Reply::read(send_http1(stream, request("GET", &path(), &[])).await).await;
    assert_eq!(reply.bytes(), &content(2500));
    stop.send(()).unwrap();
    served.await.unwrap();
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_file_that_is_no_socket_is_left_alone() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = Listeners::bind(&[ListenAddress::Unix(file.path().into())]).unwrap_err();
    assert!(error.to_string().contains("cannot listen at unix:"));
    assert!(file.path().exists());
}
