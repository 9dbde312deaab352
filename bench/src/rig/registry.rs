//! The origin, and the plain pull-through cache to compare with: docker-registry in a namespace.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use futures_util::future::try_join_all;
use reqwest::{Client, Method, Response, StatusCode};

use super::image::{Blob, Content, Image};
use super::net::{Host, Network, inside};
use super::process::Process;

pub(crate) const PORT: u16 = 5000;

/// What an origin sent, by its own access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Bytes of manifests and blobs.
    pub bytes: u64,
    /// GETs of manifests and blobs that it answered.
    pub gets: u64,
}

/// A running docker-registry.
#[derive(Debug)]
pub(crate) struct Registry {
    process: Process,
    log: PathBuf,
}

/// Where a host's registry is.
pub(crate) fn url(host: Host) -> String {
    format!("http://{}:{PORT}", host.address())
}

impl Registry {
    /// Starts it on `host`, with its data in `folder`. As a cache it fronts the registry at `remote`.
    pub(crate) async fn start(
        network: &Network,
        host: Host,
        folder: &Path,
        remote: Option<&str>,
    ) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let root = folder.display();
        let proxy = remote.map(|url| format!("proxy:\n  remoteurl: {url}\n")).unwrap_or_default();
        let config = format!(
            "version: 0.1\nlog:\n  accesslog:\n    disabled: false\n  level: error\n\
             storage:\n  filesystem:\n    rootdirectory: {root}/data\nhttp:\n  addr: 0.0.0.0:{PORT}\n{proxy}"
        );
        let path = folder.join("config.yml");
        std::fs::write(&path, config)?;
        let log = folder.join("log");
        let arguments = ["serve", path.to_str().context("the folder's name is not UTF-8")?];
        let namespace = network.namespace(host);
        let mut process =
            Process::start("docker-registry", &namespace, Path::new("docker-registry"), &arguments, &log)?;
        process.answers(&format!("http://127.0.0.1:{PORT}/v2/"), |_| true).await?;
        Ok(Self { process, log })
    }

    /// Ends it, so that what it still sends is cut off and logged, and adds up what it sent since it was started.
    pub(crate) async fn stop(mut self) -> Result<Sent> {
        self.process.stop().await?;
        let log = std::fs::read_to_string(&self.log).context("read the origin's access log")?;
        Ok(sent(&log))
    }
}

fn sent(log: &str) -> Sent {
    log.lines()
        .filter_map(content_bytes)
        .fold(Sent::default(), |sum, bytes| Sent { bytes: sum.bytes + bytes, gets: sum.gets + 1 })
}

/// Bytes of the body, if the line of the combined log format is about a GET of content that was answered.
fn content_bytes(line: &str) -> Option<u64> {
    let mut quoted = line.split('"').skip(1);
    let mut request = quoted.next()?.split(' ');
    let (method, path) = (request.next()?, request.next()?);
    let mut numbers = quoted.next()?.split_whitespace();
    let status: u16 = numbers.next()?.parse().ok()?;
    let is_content = path.contains("/manifests/") || path.contains("/blobs/");
    let answered = method == "GET" && is_content && matches!(status, 200 | 206);
    if answered { numbers.next()?.parse().ok() } else { None }
}

/// Puts images into the origin, from within its own namespace.
pub(crate) async fn push(network: &Network, images: Vec<Image>) -> Result<()> {
    let work = move || async move {
        let client = Client::builder().no_proxy().build()?;
        for image in &images {
            let base = format!("http://127.0.0.1:{PORT}/v2/{}", image.repository);
            let pusher = Pusher { client: client.clone(), base };
            pusher.image(image).await.with_context(|| format!("cannot push {}", image.reference))?;
        }
        Ok(())
    };
    inside(network.namespace(Host::Origin), work).await
}

struct Pusher {
    client: Client,
    /// With the repository.
    base: String,
}

impl Pusher {
    async fn image(&self, image: &Image) -> Result<()> {
        try_join_all(image.layers.iter().chain([&image.config]).map(|blob| self.blob(blob))).await?;
        let url = format!("{}/manifests/{}", self.base, image.reference);
        self.send(Method::PUT, &url, &image.media_type, image.manifest.clone().into()).await.map(drop)
    }

    async fn blob(&self, blob: &Blob) -> Result<()> {
        let content = match &blob.content {
            Content::File(file) => {
                let opened = tokio::fs::File::open(file).await;
                opened.with_context(|| format!("cannot open {}", file.display()))?.into()
            }
            Content::Text(text) => text.clone().into(),
            Content::Origin => return Ok(()),
        };
        let start = format!("{}/blobs/uploads/", self.base);
        let started = self.send(Method::POST, &start, "", "".into()).await?;
        let location =
            started.headers().get("location").context("the registry names no place to upload to")?;
        let joint = if location.to_str()?.contains('?') { '&' } else { '?' };
        let url = format!("{}{joint}digest={}", location.to_str()?, blob.digest);
        self.send(Method::PUT, &url, "application/octet-stream", content).await.map(drop)
    }

    async fn send(&self, method: Method, url: &str, kind: &str, body: reqwest::Body) -> Result<Response> {
        let request = self.client.request(method.clone(), url).header("content-type", kind).body(body);
        let response = request.send().await?;
        let fine = matches!(response.status(), StatusCode::ACCEPTED | StatusCode::CREATED);
        ensure!(fine, "{method} {url}: {}", response.status());
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_content_counts() {
        let line = |what: &str, rest: &str| {
            format!("10.99.1.1 - - [21/Nov/2026:12:14:21 +0000] \"{what} HTTP/1.1\" {rest} \"\" \"x\"\n")
        };
        let log = line("GET /v2/bench/image/blobs/sha256:3b", "206 263")
            + &line("GET /v2/bench/image/manifests/v1", "200 100")
            + &line("HEAD /v2/bench/image/manifests/v1", "200 100")
            + &line("GET /v2/bench/image/blobs/sha256:3c", "404 50")
            + &line("GET /v2/", "200 2")
            + "time=now level=error\n";
        assert_eq!(sent(&log), Sent { bytes: 363, gets: 2 });
    }
}
