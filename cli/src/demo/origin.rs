//! The embedded origin: a registry that serves one image and keeps count of what it sends.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use serde::Serialize;
use shoal_proto::Digest;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::cluster::Registry;
use super::sample::Sample;

/// The name under which the nodes know this registry.
const REGISTRY: &str = "demo.shoal.test";
/// What the nodes pull.
pub(super) const IMAGE: &str = "demo.shoal.test/sample:latest";
const TAG: &str = "latest";
/// A body is handed on, and counted, in pieces of this length.
const PIECE: usize = 128 << 10;

/// What the origin sent, by its own count.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct OriginLog {
    pub image_bytes: u64,
    /// Bytes of bodies.
    pub sent_bytes: u64,
    pub manifest_gets: u64,
    pub blob_gets: u64,
}

#[derive(Debug)]
struct Shared {
    sample: Sample,
    content: HashMap<String, Bytes>,
    sent: AtomicU64,
    manifest_gets: AtomicU64,
    blob_gets: AtomicU64,
}

/// The running origin; it ends when dropped.
#[derive(Debug)]
pub(super) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Origin {
    pub(super) async fn start(sample: Sample) -> anyhow::Result<Self> {
        let entry = |(digest, bytes): &(Digest, Bytes)| (digest.to_string(), bytes.clone());
        let content = sample.blobs.iter().chain([&sample.manifest]).map(entry).collect();
        let shared = Arc::new(Shared {
            sample,
            content,
            sent: AtomicU64::new(0),
            manifest_gets: AtomicU64::new(0),
            blob_gets: AtomicU64::new(0),
        });
        let router = Router::new()
            .route("/v2/", get(|| async { "{}" }))
            .route("/v2/sample/manifests/{reference}", get(manifest))
            .route("/v2/sample/blobs/{digest}", get(blob))
            .with_state(shared.clone());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no port for the origin")?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                eprintln!("the embedded origin ended: {error}");
            }
        });
        Ok(Self { address, shared, server })
    }

    pub(super) fn registry(&self) -> Registry {
        Registry { name: REGISTRY.to_owned(), url: Some(format!("http://{}", self.address)) }
    }

    pub(super) fn log(&self) -> OriginLog {
        let shared = &self.shared;
        OriginLog {
            image_bytes: shared.sample.bytes(),
            sent_bytes: shared.sent.load(Ordering::Relaxed),
            manifest_gets: shared.manifest_gets.load(Ordering::Relaxed),
            blob_gets: shared.blob_gets.load(Ordering::Relaxed),
        }
    }
}

async fn manifest(
    State(shared): State<Arc<Shared>>,
    Path(reference): Path<String>,
    method: Method,
) -> Response {
    let (digest, bytes) = &shared.sample.manifest;
    let digest = digest.to_string();
    if reference != TAG && reference != digest {
        return StatusCode::NOT_FOUND.into_response();
    }
    let headers = [
        (header::CONTENT_TYPE, shared.sample.media_type().to_owned()),
        (header::CONTENT_LENGTH, bytes.len().to_string()),
        (header::HeaderName::from_static("docker-content-digest"), digest),
    ];
    if method == Method::HEAD {
        return (headers, Body::empty()).into_response();
    }
    shared.manifest_gets.fetch_add(1, Ordering::Relaxed);
    (headers, counted(shared.clone(), bytes.clone())).into_response()
}

/// `bytes=a-b`, the one form that nodes use.
fn range(headers: &HeaderMap, len: usize) -> Option<Range<usize>> {
    let value = headers.get(header::RANGE)?.to_str().ok()?;
    let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < len).then_some(first..last + 1)
}

async fn blob(
    State(shared): State<Arc<Shared>>,
    Path(digest): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Some(bytes) = shared.content.get(&digest).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let len = bytes.len();
    if method == Method::HEAD {
        return ([(header::CONTENT_LENGTH, len.to_string())], Body::empty()).into_response();
    }
    shared.blob_gets.fetch_add(1, Ordering::Relaxed);
    match range(&headers, len) {
        Some(range) => {
            let told = format!("bytes {}-{}/{len}", range.start, range.end - 1);
            let length = range.len().to_string();
            let headers = [(header::CONTENT_RANGE, told), (header::CONTENT_LENGTH, length)];
            (StatusCode::PARTIAL_CONTENT, headers, counted(shared, bytes.slice(range))).into_response()
        }
        None => ([(header::CONTENT_LENGTH, len.to_string())], counted(shared, bytes)).into_response(),
    }
}

/// A body that counts what is taken from it.
fn counted(shared: Arc<Shared>, bytes: Bytes) -> Body {
    let pieces = futures_util::stream::unfold(bytes, move |mut rest| {
        let shared = shared.clone();
        async move {
            if rest.is_empty() {
                return None;
            }
            let piece = rest.split_to(rest.len().min(PIECE));
            shared.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Some((Ok::<_, std::convert::Infallible>(piece), rest))
        }
    });
    Body::from_stream(pieces)
}
