use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::net::TcpListener;

use crate::image::Image;

/// How much of a body is sent at once.
const PIECE: usize = 64 << 10;

/// What a [`FaultyRegistry`] does instead of answering well.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Announces and sends only the first bytes: complete for HTTP, too short for the digest.
    Short(usize),
    /// Announces and sends this many bytes too many.
    Long(usize),
    /// Sends the right number of bytes, one of them wrong.
    Flip,
    /// Sends this in place of the content, whatever its digest.
    Replace(Bytes),
    /// Announces no length and never ends.
    Endless,
    /// Announces everything, sends this many bytes and hangs up.
    CutAfter(usize),
    /// An error of the registry.
    Status(u16),
    /// 429 with `Retry-After` in seconds.
    TooMany(u32),
    /// 401 with this `WWW-Authenticate`.
    Challenge(String),
    /// 307 to this address.
    Redirect(String),
    /// Answers 200 with everything to a request for a range.
    NoRange,
    /// Sends this many bytes in a second.
    Slow(u32),
    /// Tells HEAD that there are no bytes, and answers GET well.
    EmptyHead,
    /// Names another digest in `Docker-Content-Digest`.
    LyingHeader,
}

/// A request that a [`FaultyRegistry`] received.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

#[derive(Clone, Debug)]
struct Content {
    media_type: String,
    digest: String,
    bytes: Bytes,
}

#[derive(Debug, Default)]
struct Script {
    content: HashMap<String, Content>,
    /// Part of a path, what happens there, and how many times more.
    faults: Vec<(String, Fault, usize)>,
    log: Vec<Received>,
}

type Shared = Arc<(Mutex<Script>, AtomicU64)>;

/// A registry in this process that misbehaves as told. Ends with the test's runtime.
#[derive(Debug)]
pub struct FaultyRegistry {
    address: SocketAddr,
    shared: Shared,
}

impl FaultyRegistry {
    pub async fn start() -> Self {
        Self::on("127.0.0.1:0").await
    }

    /// Listens on this address.
    pub async fn on(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared::default();
        let app = axum::Router::new().fallback(answer).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address, shared }
    }

    /// `http://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Serves the image from now on.
    pub fn serve(&self, image: &Image, repository: &str, tag: &str) {
        let mut script = lock(&self.shared);
        let mut put = |kind: &str,
                       name: &str,
                       media_type: &str,
                       digest: &shoal_proto::Digest,
                       bytes: &Bytes| {
            let content =
                Content { media_type: media_type.into(), digest: digest.to_string(), bytes: bytes.clone() };
            script.content.insert(format!("/v2/{repository}/{kind}/{name}"), content);
        };
        for blob in image.blobs() {
            put("blobs", &blob.digest.to_string(), "application/octet-stream", &blob.digest, &blob.bytes);
        }
        for manifest in image.manifests() {
            put(
                "manifests",
                &manifest.digest.to_string(),
                &manifest.media_type,
                &manifest.digest,
                &manifest.bytes,
            );
        }
        put("manifests", tag, &image.root.media_type, &image.root.digest, &image.root.bytes);
    }

    /// Misbehaves on every path that contains `part`.
    pub fn fault(&self, part: &str, fault: Fault) {
        self.fault_times(part, fault, usize::MAX);
    }

    /// Misbehaves on the next `times` requests whose path contains `part`.
    pub fn fault_times(&self, part: &str, fault: Fault, times: usize) {
        lock(&self.shared).faults.insert(0, (part.to_owned(), fault, times));
    }

    /// Behaves well from now on.
    pub fn recover(&self) {
        lock(&self.shared).faults.clear();
    }

    /// Every request so far.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.shared).log.clone()
    }

    /// Bytes of bodies handed to connections so far.
    pub fn sent(&self) -> u64 {
        self.shared.1.load(Ordering::Relaxed)
    }
}

fn lock(shared: &Shared) -> std::sync::MutexGuard<'_, Script> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (content, fault) = {
        let mut script = lock(&shared);
        script.log.push(Received {
            method: request.method().to_string(),
            path: path.clone(),
            range: header("range"),
            authorization: header("authorization"),
        });
        let fault =
            script.faults.iter_mut().find(|(part, _, left)| *left > 0 && path.contains(part.as_str()));
        let fault = fault.map(|(_, fault, left)| {
            *left -= 1;
            fault.clone()
        });
        (script.content.get(&path).cloned(), fault)
    };
    match fault {
        Some(Fault::Status(status)) => refusal(status, &[]),
        Some(Fault::TooMany(seconds)) => refusal(429, &[("retry-after", &seconds.to_string())]),
        Some(Fault::Challenge(challenge)) => refusal(401, &[("www-authenticate", &challenge)]),
        Some(Fault::Redirect(location)) => refusal(307, &[("location", &location)]),
        _ if path == "/v2/" => refusal(200, &[]),
        other => match content {
            Some(mut content) => {
                if matches!(other, Some(Fault::EmptyHead)) && request.method() == Method::HEAD {
                    content.bytes = Bytes::new();
                }
                deliver(&shared, request.headers(), content, other)
            }
            None => refusal(404, &[]),
        },
    }
}

fn refusal(status: u16, headers: &[(&str, &str)]) -> Response {
    let mut response = Response::builder().status(status).header("content-type", "application/json");
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    let code = match status {
        401 => "UNAUTHORIZED",
        403 => "DENIED",
        404 => "NOT_FOUND",
        429 => "TOOMANYREQUESTS",
        _ => "UNKNOWN",
    };
    let body = if status == 200 {
        "{}".into()
    } else {
        format!(r#"{{"errors":[{{"code":"{code}","message":"scripted"}}]}}"#)
    };
    response.body(Body::from(body)).unwrap()
}

fn deliver(shared: &Shared, headers: &HeaderMap, mut content: Content, fault: Option<Fault>) -> Response {
    let mut cut = usize::MAX;
    let mut pace = None;
    let mut ranges = true;
    match fault {
        Some(Fault::Short(length)) => content.bytes.truncate(length),
        Some(Fault::Long(extra)) => content.bytes = [&content.bytes[..], &vec![b' '; extra]].concat().into(),
        Some(Fault::Flip) => content.bytes = flipped(&content.bytes),
        Some(Fault::Replace(bytes)) => content.bytes = bytes,
        Some(Fault::CutAfter(length)) => cut = length,
        Some(Fault::Slow(rate)) => pace = Some(rate),
        Some(Fault::NoRange) => ranges = false,
        Some(Fault::LyingHeader) => content.digest = format!("sha256:{}", "0".repeat(64)),
        Some(Fault::Endless) => return endless(shared, &content),
        _ => {}
    }
    let total = content.bytes.len();
    let range = headers.get("range").filter(|_| ranges).and_then(|v| parse_range(v.to_str().ok()?, total));
    let mut response = Response::builder()
        .header("content-type", content.media_type)
        .header("docker-content-digest", content.digest);
    if ranges {
        response = response.header("accept-ranges", "bytes");
    }
    let (status, range) = match range {
        Some(range) => {
            let last = range.end - 1;
            response = response.header("content-range", format!("bytes {}-{last}/{total}", range.start));
            (StatusCode::PARTIAL_CONTENT, range)
        }
        None => (StatusCode::OK, 0..total),
    };
    let bytes = content.bytes.slice(range);
    response = response.status(status).header("content-length", bytes.len());
    response.body(Body::from_stream(pieces(shared.clone(), bytes, cut, pace))).unwrap()
}

/// The body in pieces, counted as they are handed over, at most `pace` bytes in a second, ending with
/// an error after `cut` bytes.
fn pieces(
    shared: Shared,
    bytes: Bytes,
    cut: usize,
    pace: Option<u32>,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> {
    stream::unfold((bytes, cut), move |(mut left, cut)| {
        let shared = shared.clone();
        async move {
            if left.is_empty() {
                return None;
            }
            if cut == 0 {
                return Some((Err(std::io::Error::other("cut as scripted")), (Bytes::new(), 0)));
            }
            let piece = left.split_to(PIECE.min(cut).min(left.len()));
            if let Some(rate) = pace {
                tokio::time::sleep(Duration::from_secs_f64(piece.len() as f64 / f64::from(rate))).await;
            }
            shared.1.fetch_add(piece.len() as u64, Ordering::Relaxed);
            let cut = cut - piece.len();
            Some((Ok(piece), (left, cut)))
        }
    })
}

fn endless(shared: &Shared, content: &Content) -> Response {
    let shared = shared.clone();
    let body = stream::repeat(Bytes::from_static(&[b' '; PIECE])).map(move |piece| {
        shared.1.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Ok::<_, std::io::Error>(piece)
    });
    let response = Response::builder().header("content-type", content.media_type.clone());
    response.header("docker-content-digest", content.digest.clone()).body(Body::from_stream(body)).unwrap()
}

fn flipped(bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.into()
}

/// `bytes=first-last` or `bytes=first-`, cut to the length.
fn parse_range(header: &str, total: usize) -> Option<Range<usize>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let end = if last.is_empty() { total } else { last.parse::<usize>().ok()?.checked_add(1)?.min(total) };
    (first < end).then_some(first..end)
}
