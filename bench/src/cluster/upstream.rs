//! A registry anywhere as the origin. In the origin's place in the network stands a server that passes requests on
//! to it, outside of the network that is made here, and counts what comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result, bail, ensure};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::TryStreamExt;
use reqwest::header::{
    ACCEPT, ACCEPT_RANGES, AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, IF_RANGE, RANGE, WWW_AUTHENTICATE,
};
use reqwest::{Client, Method, StatusCode, Url};
use serde::Deserialize;
use shoal_proto::host_architecture;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinHandle;

use crate::UsageError;
use crate::rig::image::{Content, Descriptor, Image, MANIFEST_TYPES};
use crate::rig::net::{Host, Network, inside};
use crate::rig::registry::{PORT, Sent};

const INDEX_TYPES: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";
const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// What of a request concerns the registry.
const ASKED: [HeaderName; 3] = [ACCEPT, RANGE, IF_RANGE];
/// What of its answer concerns the client.
const ANSWERED: [HeaderName; 5] =
    [CONTENT_TYPE, CONTENT_LENGTH, CONTENT_RANGE, ACCEPT_RANGES, CONTENT_DIGEST];

/// A registry that anybody may read.
#[derive(Clone, Debug)]
pub(super) struct Upstream(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    base: Url,
    client: Client,
    /// For all requests, since all are for one repository.
    token: Mutex<Option<HeaderValue>>,
    /// Of the threads that live outside of the network made here.
    outside: Handle,
}

/// It stands in the origin's place while this lives.
#[derive(Debug)]
pub(super) struct Serving {
    counts: Arc<Counts>,
    server: JoinHandle<Result<()>>,
}

#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicU64,
    gets: AtomicU64,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(flatten)]
    descriptor: Descriptor,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Upstream {
    /// `url` is the registry's, with scheme and without a path.
    pub(super) fn new(url: &str) -> Result<Self> {
        let base = Url::parse(url)
            .ok()
            .filter(|url| url.has_host() && matches!(url.scheme(), "http" | "https") && url.path() == "/")
            .ok_or_else(|| UsageError(format!("--origin {url}: not a URL as https://registry.example")))?;
        let (client, token, outside) = (Client::builder().build()?, Mutex::default(), Handle::current());
        Ok(Self(Arc::new(Inner { base, client, token, outside })))
    }

    /// The image `repository:tag` or `repository@digest` that it holds, for this machine's platform.
    pub(super) async fn image(&self, name: &str) -> Result<Image> {
        let (repository, reference) = match name.split_once('@') {
            Some(parts) => parts,
            None => name.rsplit_once(':').unwrap_or((name, "latest")),
        };
        let manifest = self.manifest(repository, reference).await?;
        let (reference, manifest) = match serde_json::from_str::<Index>(&manifest) {
            Err(_) => (reference.to_owned(), manifest),
            Ok(index) => {
                let fits = |platform: &Platform| {
                    platform.os == "linux" && platform.architecture == host_architecture()
                };
                let listed =
                    index.manifests.into_iter().find(|listed| listed.platform.as_ref().is_some_and(fits));
                let listed = listed
                    .with_context(|| format!("{name} is not there for linux/{}", host_architecture()))?;
                let digest = listed.descriptor.digest;
                let manifest = self.manifest(repository, &digest).await?;
                (digest, manifest)
            }
        };
        Image::existing(repository.to_owned(), reference, manifest, |_| Content::Origin)
    }

    async fn manifest(&self, repository: &str, reference: &str) -> Result<String> {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let accept = HeaderValue::from_str(&format!("{MANIFEST_TYPES}, {INDEX_TYPES}"))?;
        let answer = self.0.ask(Method::GET, &path, HeaderMap::from_iter([(ACCEPT, accept)])).await?;
        ensure!(answer.status().is_success(), "{}: {}", self.0.base.join(&path)?, answer.status());
        Ok(answer.text().await?)
    }

    /// Puts it into the origin's place; it answers when this returns.
    pub(super) async fn serve(&self, network: &Network) -> Result<Serving> {
        let counts = Arc::new(Counts::default());
        let router = Router::new().fallback(forward).with_state((self.clone(), counts.clone()));
        let (bound, is_bound) = oneshot::channel();
        let server = tokio::spawn(inside(network.namespace(Host::Origin), move || async move {
            let listener = TcpListener::bind(("0.0.0.0", PORT)).await?;
            // Nobody may be waiting any more.
            let _ = bound.send(());
            Ok(axum::serve(listener, router).await?)
        }));
        if is_bound.await.is_err() {
            server.await?.context("cannot serve in the origin's place")?;
            bail!("what serves in the origin's place ended at its start");
        }
        Ok(Serving { counts, server })
    }
}

impl Serving {
    pub(super) fn stop(self) -> Sent {
        let [bytes, gets] =
            [&self.counts.bytes, &self.counts.gets].map(|count| count.load(Ordering::Relaxed));
        Sent { bytes, gets }
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Inner {
    /// Asks as anybody, with a token if one is wanted, and follows redirects.
    async fn ask(&self, method: Method, path: &str, headers: HeaderMap) -> Result<reqwest::Response> {
        let url = self.base.join(path)?;
        let known = self.token.lock().await.clone();
        let answer = self.send(method.clone(), url.clone(), headers.clone(), known).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        let Some(challenge) = answer.headers().get(WWW_AUTHENTICATE) else { return Ok(answer) };
        let token =
            self.fetch_token(challenge.to_str()?).await.with_context(|| format!("a token for {url}"))?;
        *self.token.lock().await = Some(token.clone());
        self.send(method, url, headers, Some(token)).await
    }

    async fn send(
        &self,
        method: Method,
        url: Url,
        headers: HeaderMap,
        token: Option<HeaderValue>,
    ) -> Result<reqwest::Response> {
        let mut request = self.client.request(method, url).headers(headers);
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        Ok(request.send().await?)
    }

    async fn fetch_token(&self, challenge: &str) -> Result<HeaderValue> {
        let Some(parameters) = challenge.strip_prefix("Bearer ") else {
            bail!(
                "the registry wants a password ({challenge}): only images that anybody may read can be measured"
            );
        };
        let parameters: Vec<(&str, &str)> =
            parameters.split(',').filter_map(|part| part.trim().split_once('=')).collect();
        let parameter =
            |name| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| value.trim_matches('"'));
        let mut url = Url::parse(parameter("realm").context("the registry names no token server")?)?;
        for name in ["service", "scope"] {
            if let Some(value) = parameter(name) {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        let answer = self.client.get(url).send().await?.error_for_status()?;
        let Token { token, access_token } = serde_json::from_slice(&answer.bytes().await?)?;
        let token = token.or(access_token).context("the token server gave no token")?;
        Ok(HeaderValue::from_str(&format!("Bearer {token}"))?)
    }
}

/// Answers as the registry does.
async fn forward(State((upstream, counts)): State<(Upstream, Arc<Counts>)>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let is_content =
        parts.method == Method::GET && (path.contains("/manifests/") || path.contains("/blobs/"));
    let kept = only(&parts.headers, &ASKED);
    // Outside, where the registry can be reached.
    let asked = upstream.clone();
    let answer = upstream.0.outside.spawn(async move { asked.0.ask(parts.method, &path, kept).await });
    let answer = match answer.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => return (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
        Err(error) => return (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    };
    let (status, headers) = (answer.status(), only(answer.headers(), &ANSWERED));
    let counted = is_content && status.is_success();
    if counted {
        counts.gets.fetch_add(1, Ordering::Relaxed);
    }
    let body = answer.bytes_stream().inspect_ok(move |piece| {
        if counted {
            counts.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    });
    (status, headers, Body::from_stream(body)).into_response()
}

fn only(headers: &HeaderMap, wanted: &[HeaderName]) -> HeaderMap {
    wanted.iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect()
}
