//! A registry without TLS or login that serves one image from its files. It runs in this process, so that its
//! CPU time is not counted as anybody else's.

use std::io::SeekFrom;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::io::ReaderStream;

use crate::sample::{Layer, MANIFEST_TYPE, Sample};

/// What is read from a file at once.
const READ: usize = 512 << 10;

/// The running origin; it ends when dropped.
#[derive(Debug)]
pub(crate) struct Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    sample: Sample,
    manifest_requests: AtomicU64,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Origin {
    pub(crate) async fn start(sample: Sample) -> Result<Self> {
        let shared = Arc::new(Shared { sample, manifest_requests: AtomicU64::new(0) });
        let router = Router::new()
            .route("/v2/", get(|| async { "{}" }))
            .route("/v2/bench/manifests/{reference}", get(manifest))
            .route("/v2/bench/blobs/{digest}", get(blob))
            .with_state(shared.clone());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("a port for the origin")?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("the origin ended: {error}");
            }
        });
        Ok(Self { address, shared, server })
    }

    /// Requests for manifests so far, by HEAD or GET.
    pub(crate) fn manifest_requests(&self) -> u64 {
        self.shared.manifest_requests.load(Ordering::SeqCst)
    }
}

async fn manifest(State(shared): State<Arc<Shared>>, method: Method) -> Response {
    shared.manifest_requests.fetch_add(1, Ordering::SeqCst);
    let sample = &shared.sample;
    let headers = [
        (header::CONTENT_TYPE, MANIFEST_TYPE.to_owned()),
        (header::CONTENT_LENGTH, sample.manifest.len().to_string()),
        (HeaderName::from_static("docker-content-digest"), sample.manifest_digest.to_string()),
    ];
    let body = if method == Method::HEAD { String::new() } else { sample.manifest.clone() };
    (headers, body).into_response()
}

async fn blob(
    State(shared): State<Arc<Shared>>,
    Path(digest): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Sample { config, config_digest, layer, .. } = &shared.sample;
    if digest == config_digest.to_string() {
        return config.clone().into_response();
    }
    if digest != layer.digest.to_string() {
        return StatusCode::NOT_FOUND.into_response();
    }
    let (status, range) = match range(&headers, layer.size) {
        Some(range) => (StatusCode::PARTIAL_CONTENT, range),
        None => (StatusCode::OK, 0..layer.size),
    };
    let told = format!("bytes {}-{}/{}", range.start, range.end - 1, layer.size);
    let length = (range.end - range.start).to_string();
    let body = if method == Method::HEAD { Ok(Body::empty()) } else { send(layer, range).await };
    match body {
        Ok(body) => {
            (status, [(header::CONTENT_RANGE, told), (header::CONTENT_LENGTH, length)], body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn send(layer: &Layer, range: Range<u64>) -> std::io::Result<Body> {
    let mut file = File::open(&layer.file).await?;
    file.set_max_buf_size(READ);
    file.seek(SeekFrom::Start(range.start)).await?;
    Ok(Body::from_stream(ReaderStream::with_capacity(file.take(range.end - range.start), READ)))
}

/// `bytes=a-b`, the one form that nodes use.
fn range(headers: &HeaderMap, len: u64) -> Option<Range<u64>> {
    let value = headers.get(header::RANGE)?.to_str().ok()?;
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < len).then_some(first..last + 1)
}
