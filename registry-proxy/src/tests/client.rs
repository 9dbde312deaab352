//! A mirror on loopback and clients for it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::shelf::Shelf;
use crate::connection::Patience;
use crate::{Listeners, Metrics, Proxy, ProxyConfig};

pub(super) struct Mirror {
    pub(super) address: SocketAddr,
    pub(super) shelf: Arc<Shelf>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stop: oneshot::Sender<()>,
    pub(super) served: JoinHandle<()>,
}

impl Mirror {
    pub(super) async fn start(shelf: Shelf) -> Self {
        Self::start_with(shelf, ProxyConfig::default(), Patience::default()).await
    }

    pub(super) async fn start_with(shelf: Shelf, config: ProxyConfig, patience: Patience) -> Self {
        let listeners = Listeners::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
        let address = listeners.tcp_addresses()[0];
        let shelf = Arc::new(shelf);
        let proxy = Proxy::with_patience(Arc::clone(&shelf), &config, patience).unwrap();
        let metrics = proxy.metrics();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(proxy.serve(listeners, async {
            let _ = stopped.await;
        }));
        Self { address, shelf, metrics, stop, served }
    }

    pub(super) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(super) async fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[]).await
    }

    pub(super) async fn head(&self, path: &str) -> Reply {
        self.ask("HEAD", path, &[]).await
    }

    pub(super) async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        let response = send_http1(self.connect().await, request(method, path, headers)).await;
        Reply::read(response).await
    }

    /// Writes text as it is and reads until the mirror closes.
    pub(super) async fn raw(&self, text: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(text).await.unwrap();
        let mut answer = Vec::new();
        // A reset after the answer is as good as an end.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

pub(super) fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> Request<Empty<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("host", "mirror.test");
    headers.iter().fold(request, |r, (name, value)| r.header(*name, *value)).body(Empty::new()).unwrap()
}

pub(super) async fn send_http1<I>(io: I, request: Request<Empty<Bytes>>) -> Response<Incoming>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

pub(super) async fn http2<I>(io: I) -> http2::SendRequest<Empty<Bytes>>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// An HTTP/2 request needs scheme and authority.
pub(super) fn request2(path: &str) -> Request<Empty<Bytes>> {
    Request::builder().uri(format!("http://mirror.test{path}")).body(Empty::new()).unwrap()
}

/// A whole response.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// All of the body, or why it broke off.
    pub(super) body: Result<Bytes, hyper::Error>,
}

impl Reply {
    pub(super) async fn read(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|whole| whole.to_bytes());
        Self { status: parts.status, headers: parts.headers, body }
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(super) fn bytes(&self) -> &Bytes {
        self.body.as_ref().unwrap()
    }

    /// Code and message of the OCI error.
    pub(super) fn error(&self) -> (String, String) {
        assert_eq!(self.header("content-type"), "application/json");
        let body: serde_json::Value = serde_json::from_slice(self.bytes()).unwrap();
        let error = &body["errors"][0];
        (error["code"].as_str().unwrap().into(), error["message"].as_str().unwrap().into())
    }
}
