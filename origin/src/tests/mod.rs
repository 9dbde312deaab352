//! Promises that take a registry to hold. Each file is named after what it promises.

mod addresses_are_guarded;
mod blobs_are_exact;
mod credentials_are_found;
mod folders_are_origins;
mod manifests_are_checked;
mod redirects_leak_nothing;
mod registries_are_admitted;
mod registries_are_authenticated_to;
mod silence_is_remembered;
mod statuses_are_told_apart;
mod tls_is_configured;
mod tokens_are_cached;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use shoal_proto::{Algorithm, Digest, Repository};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::origin::hash;
use crate::{Identity, Origin, Origins, OriginsConfig};

/// A request as the registry saw it.
#[derive(Clone, Debug)]
struct Seen {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    body: String,
}

impl Seen {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A server on the loopback that answers as a registry would, and remembers what it was asked.
struct FakeRegistry {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    server: JoinHandle<()>,
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl FakeRegistry {
    async fn start(answer: impl Fn(&Seen) -> Response + Clone + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let app = Router::new().fallback(async move |request: Request| {
            let (parts, body) = request.into_parts();
            let body = to_bytes(body, 1 << 20).await.unwrap();
            let one = Seen {
                method: parts.method,
                path: parts.uri.path().to_owned(),
                query: parts.uri.query().unwrap_or_default().to_owned(),
                headers: parts.headers,
                body: String::from_utf8(body.to_vec()).unwrap(),
            };
            log.lock().unwrap().push(one.clone());
            answer(&one)
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { addr, seen, server }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The origin `name` with this server as its URL and further lines of configuration.
    fn origin_named(&self, name: &str, config: &str) -> Arc<Origin> {
        let url =
            if config.contains("url =") { String::new() } else { format!("url = 'http://{}'", self.addr) };
        origin(name, &format!("{url}\n{config}"))
    }

    fn origin(&self, config: &str) -> Arc<Origin> {
        self.origin_named("registry.test", config)
    }
}

fn origin(name: &str, config: &str) -> Arc<Origin> {
    let config: OriginsConfig =
        toml::from_str(&format!("system_proxy = false\n[registries.'{name}']\n{config}")).unwrap();
    Origins::new(config).unwrap().admit(&name.parse().unwrap()).unwrap()
}

fn answer(status: u16, headers: &[(&'static str, &str)], body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
    }
    response
}

fn repository() -> Repository {
    "team/app".parse().unwrap()
}

fn digest_of(bytes: &[u8]) -> Digest {
    hash(Algorithm::Sha256, bytes)
}

fn caller(authorization: &str) -> Identity {
    Identity::from_authorization(Some(&HeaderValue::from_str(authorization).unwrap()))
}

/// Bytes that differ at each offset's neighbourhood, so that a shifted range is another one.
fn content(length: usize) -> Bytes {
    (0..length).map(|i| u8::try_from((i * 7 + i / 251) % 256).unwrap()).collect()
}
