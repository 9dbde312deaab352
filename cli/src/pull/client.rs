//! The pulling itself: manifest, then all blobs at once, each checked against its digest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use reqwest::header::ACCEPT;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use shoal_proto::{Digest, Reference};
use shoal_store::ContentHasher;
use tokio::io::AsyncWriteExt;

use super::{ImageName, Layout, Progress, host_and_port};

/// All kinds of manifests that clients take.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// Blobs at once; containerd has 3, podman 6.
const PARALLEL: usize = 6;
/// Registries must take manifests of 4 MiB.
const MAX_MANIFEST: usize = 8 << 20;

/// An HTTP client; TLS with the system's authorities.
pub(crate) fn http_client() -> anyhow::Result<reqwest::Client> {
    Ok(reqwest::Client::builder().no_proxy().build()?)
}

/// Pulls images through one node.
#[derive(Clone, Debug)]
pub(crate) struct Puller {
    client: reqwest::Client,
    base: String,
    platform: String,
    layout: Option<Layout>,
    progress: Progress,
    login: Option<Login>,
}

/// An account at the image's registry. The node shows it to the registry, and keeps it for no other request.
#[derive(Clone)]
pub(crate) struct Login {
    pub user: String,
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// What a pull got.
#[derive(Clone, Debug)]
pub(crate) struct PullReport {
    /// Of the manifest that the name led to.
    pub digest: String,
    /// Of manifests and blobs.
    pub bytes: u64,
    pub blobs: usize,
    pub elapsed: Duration,
    /// Bytes of each answer by what the node said of its first byte's source.
    pub by_source: BTreeMap<String, u64>,
    /// The platform of an image that comes for one only, where it is not the one that was asked for.
    pub other_platform: Option<String>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    manifests: Vec<Descriptor>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

struct Fetched {
    digest: Digest,
    media_type: String,
    bytes: Bytes,
    source: String,
}

/// Where the node says that the first byte came from. Only a node says so: a registry would be pulled from as well.
fn source(response: &Response) -> anyhow::Result<String> {
    let value = response.headers().get("x-shoal-source").and_then(|value| value.to_str().ok());
    value.map(str::to_owned).with_context(no_mirror)
}

fn no_mirror() -> String {
    "what answers there is no node's mirror: --node names one, by default 127.0.0.1:5100".to_owned()
}

/// The registry's own words where it refused.
async fn accepted(response: Response, login: Option<&Login>) -> anyhow::Result<Response> {
    let status = response.status();
    // Every answer of a mirror says which API it speaks.
    ensure!(response.headers().contains_key("docker-distribution-api-version"), no_mirror());
    if status.is_success() {
        return Ok(response);
    }
    let text = response.text().await.unwrap_or_default();
    let message = serde_json::from_str::<serde_json::Value>(&text).ok().and_then(|body| {
        let message = body.pointer("/errors/0/message")?.as_str()?.to_owned();
        Some(message)
    });
    match (status, login) {
        (StatusCode::UNAUTHORIZED, Some(login)) => {
            Err(anyhow!("{status}: the registry refused the account {}: check name and password", login.user))
        }
        (StatusCode::UNAUTHORIZED, None) => {
            Err(anyhow!("{status}: {}; shoal pull: --user NAME", message.unwrap_or(text)))
        }
        _ => Err(anyhow!("{status}: {}", message.unwrap_or(text))),
    }
}

impl Puller {
    /// A puller through the node whose mirror is at `node` (host:port).
    pub(crate) fn new(
        node: &str,
        platform: String,
        layout: Option<Layout>,
        progress: Progress,
    ) -> anyhow::Result<Self> {
        let base = format!("http://{}/v2", host_and_port(node)?);
        Ok(Self { client: http_client()?, base, platform, layout, progress, login: None })
    }

    /// Pulls as somebody.
    pub(crate) fn login(mut self, login: Option<Login>) -> Self {
        self.login = login;
        self
    }

    fn get(&self, url: String) -> RequestBuilder {
        let request = self.client.get(url);
        match &self.login {
            Some(login) => request.basic_auth(&login.user, Some(&login.password)),
            None => request,
        }
    }

    async fn answer(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let answer = request.send().await;
        let answer = answer.context("no answer from that address; is `shoal daemon` running there?")?;
        accepted(answer, self.login.as_ref()).await
    }

    /// Pulls manifest, configuration and layers; an error if a digest does not match.
    pub(crate) async fn pull(&self, image: &ImageName) -> anyhow::Result<PullReport> {
        let started = Instant::now();
        let top = self.manifest(image, &image.reference).await?;
        let mut report = PullReport {
            digest: top.digest.to_string(),
            bytes: top.bytes.len() as u64,
            blobs: 0,
            elapsed: Duration::ZERO,
            by_source: BTreeMap::from([(top.source.clone(), top.bytes.len() as u64)]),
            other_platform: None,
        };
        let mut manifest: Manifest =
            serde_json::from_slice(&top.bytes).context("the manifest is not JSON")?;
        if !manifest.manifests.is_empty() {
            let chosen = self.choose(&manifest.manifests)?;
            let fetched = self.manifest(image, &Reference::Digest(chosen)).await?;
            report.bytes += fetched.bytes.len() as u64;
            *report.by_source.entry(fetched.source).or_default() += fetched.bytes.len() as u64;
            manifest = serde_json::from_slice(&fetched.bytes).context("the manifest is not JSON")?;
        } else if let Some(config) = &manifest.config {
            report.other_platform = self.other_platform(image, config).await;
        }
        let blobs: Vec<Descriptor> = manifest.config.into_iter().chain(manifest.layers).collect();
        report.blobs = blobs.len();
        let this = Arc::new(self.clone());
        let mut pulls = futures_util::stream::iter(blobs)
            .map(|blob| {
                let (this, image) = (this.clone(), image.clone());
                async move { tokio::spawn(async move { this.blob(&image, &blob).await }).await? }
            })
            .buffer_unordered(PARALLEL);
        while let Some((bytes, source)) = pulls.try_next().await? {
            report.bytes += bytes;
            *report.by_source.entry(source).or_default() += bytes;
        }
        if let Some(layout) = &self.layout {
            let size = top.bytes.len() as u64;
            layout.finish(&report.digest, &top.media_type, size, &image.to_string()).await?;
        }
        report.elapsed = started.elapsed();
        Ok(report)
    }

    /// What the configuration says, which is read once more with the other blobs; an error is told of then.
    async fn other_platform(&self, image: &ImageName, config: &Descriptor) -> Option<String> {
        if config.size > MAX_MANIFEST as u64 {
            return None;
        }
        let answer = self.get(self.url(image, "blobs", &config.digest)).send().await.ok()?;
        let platform: Platform = serde_json::from_slice(&answer.bytes().await.ok()?).ok()?;
        let name = format!("{}/{}", platform.os, platform.architecture);
        (name != self.platform).then_some(name)
    }

    fn choose(&self, manifests: &[Descriptor]) -> anyhow::Result<Digest> {
        let name = |platform: &Platform| format!("{}/{}", platform.os, platform.architecture);
        let found = manifests.iter().find(|m| m.platform.as_ref().is_some_and(|p| name(p) == self.platform));
        let found = found.ok_or_else(|| {
            let all: Vec<String> = manifests.iter().filter_map(|m| m.platform.as_ref()).map(name).collect();
            anyhow!("no image for {}; there are: {}", self.platform, all.join(", "))
        })?;
        Ok(found.digest.parse()?)
    }

    fn url(&self, image: &ImageName, kind: &str, what: &str) -> String {
        format!("{}/{}/{kind}/{what}?ns={}", self.base, image.repository, image.registry)
    }

    async fn manifest(&self, image: &ImageName, reference: &Reference) -> anyhow::Result<Fetched> {
        let name = match reference {
            Reference::Tag(tag) => tag.to_string(),
            Reference::Digest(digest) => digest.to_string(),
        };
        let url = self.url(image, "manifests", &name);
        let response = self.answer(self.get(url).header(ACCEPT, MANIFESTS)).await?;
        let header = |name: &str| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.map(str::to_owned)
        };
        let told = header("docker-content-digest").context("the answer names no digest")?;
        let told: Digest = told.parse()?;
        let media_type = header("content-type").unwrap_or_default();
        let source = source(&response)?;
        let mut bytes = Vec::new();
        let mut body = response.bytes_stream();
        while let Some(part) = body.try_next().await? {
            ensure!(
                bytes.len() + part.len() <= MAX_MANIFEST,
                "the manifest has more than {MAX_MANIFEST} bytes"
            );
            bytes.extend_from_slice(&part);
        }
        let digest = match reference {
            Reference::Tag(_) => told,
            Reference::Digest(digest) => *digest,
        };
        let got = ContentHasher::digest(digest.algorithm(), &bytes);
        ensure!(got == digest, "the manifest has the digest {got}, not {digest}");
        if let Some(layout) = &self.layout {
            layout.begin(&digest).await?.write_all(&bytes).await?;
            layout.keep(&digest).await?;
        }
        Ok(Fetched { digest, media_type, bytes: bytes.into(), source })
    }

    /// Pulls one blob; its length and its source.
    async fn blob(&self, image: &ImageName, blob: &Descriptor) -> anyhow::Result<(u64, String)> {
        let digest: Digest = blob.digest.parse()?;
        let url = self.url(image, "blobs", &blob.digest);
        let response = self.answer(self.get(url)).await.with_context(|| blob.digest.clone())?;
        let source = source(&response)?;
        let bar = self.progress.bar(digest.hex().chars().take(12).collect(), blob.size);
        let mut file = match &self.layout {
            Some(layout) => Some(layout.begin(&digest).await?),
            None => None,
        };
        let mut hasher = ContentHasher::new(digest.algorithm());
        let mut length = 0;
        let mut body = response.bytes_stream();
        while let Some(part) = body.try_next().await.with_context(|| format!("{digest} broke off"))? {
            length += part.len() as u64;
            if length > blob.size {
                bail!("{digest} is longer than the {} bytes that the manifest tells", blob.size);
            }
            hasher.update(&part);
            if let Some(file) = &mut file {
                file.write_all(&part).await?;
            }
            bar.inc(part.len() as u64);
        }
        let got = hasher.finish();
        ensure!(
            length == blob.size && got == digest,
            "{length} bytes with the digest {got} came for {digest}"
        );
        if let (Some(mut file), Some(layout)) = (file, &self.layout) {
            file.flush().await?;
            layout.keep(&digest).await?;
        }
        bar.finish_with_message(source.clone());
        Ok((length, source))
    }
}
