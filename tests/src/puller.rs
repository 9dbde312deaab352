use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Method, Response, StatusCode};
use serde_json::Value;
use sha2::{Digest as _, Sha256, Sha512};
use shoal_proto::{Algorithm, Digest};

use crate::http::{Credentials, client};
use crate::image_builder::digest as digest_of;

/// As many as containerd fetches at once.
const BLOBS_AT_ONCE: usize = 3;

/// Every manifest type that clients ask for.
const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, */*";

/// A small client that pulls as containerd does (HEAD by tag, GET by digest, blobs side by side), checks
/// every digest and keeps nothing: cheap enough to run many at once.
#[derive(Clone, Debug)]
pub struct Puller {
    client: reqwest::Client,
    base: String,
    registry: String,
    login: Option<Credentials>,
}

/// What a pull brought.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// What the tag named.
    pub digest: Digest,
    /// Bytes of manifests, config and layers.
    pub bytes: u64,
    pub took: Duration,
    /// Whether the answer for the tag was marked stale (`X-Shoal-Stale`).
    pub stale: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("{url}: {source:?}")]
    Request { url: String, source: reqwest::Error },
    #[error("{url}: {status}: {body}")]
    Status { url: String, status: StatusCode, body: String },
    #[error("{url}: no usable {0}", .what)]
    Malformed { url: String, what: &'static str },
    #[error("{url}: these bytes have digest {got}")]
    WrongBytes { url: String, got: Digest },
}

impl PullError {
    /// The HTTP status, where the mirror answered with an error.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(status.as_u16()),
            _ => None,
        }
    }
}

impl Puller {
    pub fn new(base: &str, registry: &str) -> Self {
        Self { client: client(), base: base.to_owned(), registry: registry.to_owned(), login: None }
    }

    /// Sends these with every request, as a client does that was challenged before.
    pub fn login(mut self, login: Option<&Credentials>) -> Self {
        self.login = login.cloned();
        self
    }

    /// Pulls all that a machine of this architecture needs. `reference` is a tag or a digest.
    pub async fn pull(&self, repository: &str, reference: &str) -> Result<Pulled, PullError> {
        let started = Instant::now();
        let path = format!("{repository}/manifests/{reference}");
        let head = self.success(Method::HEAD, &path).await?;
        let digest = digest_header(&head)?;
        let stale = head.headers().contains_key("x-shoal-stale");
        let mut bytes = 0;
        let mut manifest = self.manifest(repository, &digest, &mut bytes).await?;
        if let Some(entries) = manifest["manifests"].as_array() {
            let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
            let entry = entries.iter().find(|entry| entry["platform"]["architecture"] == here);
            let own = parse_digest(&path, entry.map_or(&Value::Null, |entry| &entry["digest"]))?;
            manifest = self.manifest(repository, &own, &mut bytes).await?;
        }
        let descriptors =
            std::iter::once(&manifest["config"]).chain(manifest["layers"].as_array().into_iter().flatten());
        let digests: Vec<_> =
            descriptors.map(|entry| parse_digest(&path, &entry["digest"])).collect::<Result<_, _>>()?;
        bytes += stream::iter(digests)
            .map(|digest| async move { self.blob(repository, &digest).await })
            .buffer_unordered(BLOBS_AT_ONCE)
            .try_fold(0, |sum, length| async move { Ok(sum + length) })
            .await?;
        Ok(Pulled { digest, bytes, took: started.elapsed(), stale })
    }

    /// Reads a blob to its end and returns its length; an error if its bytes are not the digest's.
    pub async fn blob(&self, repository: &str, digest: &Digest) -> Result<u64, PullError> {
        let response = self.success(Method::GET, &format!("{repository}/blobs/{digest}")).await?;
        let url = response.url().to_string();
        let mut body = response.bytes_stream();
        let (mut sha256, mut sha512, mut length) = (Sha256::new(), Sha512::new(), 0);
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|source| PullError::Request { url: url.clone(), source })?;
            length += piece.len() as u64;
            match digest.algorithm() {
                Algorithm::Sha256 => sha256.update(&piece),
                Algorithm::Sha512 => sha512.update(&piece),
            }
        }
        let got = match digest.algorithm() {
            Algorithm::Sha256 => Digest::from_hash(Algorithm::Sha256, &sha256.finalize()),
            Algorithm::Sha512 => Digest::from_hash(Algorithm::Sha512, &sha512.finalize()),
        }
        .unwrap();
        if got == *digest { Ok(length) } else { Err(PullError::WrongBytes { url, got }) }
    }

    /// Sends one request; `path` comes after `/v2/`.
    pub async fn send(&self, method: Method, path: &str) -> Result<Response, PullError> {
        let url = format!("{}/v2/{path}?ns={}", self.base, self.registry);
        let mut request = self.client.request(method, &url).header("accept", ACCEPT);
        if let Some(login) = &self.login {
            request = request.header("authorization", login.basic());
        }
        request.send().await.map_err(|source| PullError::Request { url, source })
    }

    async fn success(&self, method: Method, path: &str) -> Result<Response, PullError> {
        let response = self.send(method, path).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let url = response.url().to_string();
        Err(PullError::Status { url, status, body: response.text().await.unwrap_or_default() })
    }

    async fn manifest(&self, repository: &str, digest: &Digest, sum: &mut u64) -> Result<Value, PullError> {
        let response = self.success(Method::GET, &format!("{repository}/manifests/{digest}")).await?;
        let url = response.url().to_string();
        let body =
            response.bytes().await.map_err(|source| PullError::Request { url: url.clone(), source })?;
        let got = digest_of(digest.algorithm(), &body);
        if got != *digest {
            return Err(PullError::WrongBytes { url, got });
        }
        *sum += body.len() as u64;
        serde_json::from_slice(&body).map_err(|_| PullError::Malformed { url, what: "manifest" })
    }
}

fn digest_header(response: &Response) -> Result<Digest, PullError> {
    let text = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).ok_or_else(|| PullError::Malformed {
        url: response.url().to_string(),
        what: "Docker-Content-Digest",
    })
}

fn parse_digest(url: &str, value: &Value) -> Result<Digest, PullError> {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| PullError::Malformed { url: url.to_owned(), what: "digest in the manifest" })
}
