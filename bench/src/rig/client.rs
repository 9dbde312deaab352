//! A client on a node: pulls as containerd does and drops the bytes. It checks lengths only, so that the processors
//! are left to what is measured; Shoal's nodes check every digest themselves.

use std::collections::HashSet;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::{Client, Method, Response};

use super::image::{Descriptor, MANIFEST_TYPES, Manifest};

/// Blobs at once, as containerd has it.
const PARALLEL: usize = 3;

/// What one client is to pull, and when.
#[derive(Clone, Debug)]
pub(crate) struct Pull {
    /// Of the mirror or registry, as the client sees it.
    pub url: String,
    pub repository: String,
    /// A tag, or a digest.
    pub reference: String,
    /// Digests of layers that the client has unpacked already and does not ask for.
    pub has: Vec<String>,
    pub start: Instant,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Pulled {
    /// When the first byte of a layer came.
    pub first_byte: Instant,
    pub finished: Instant,
    /// Bytes of manifest and blobs.
    pub bytes: u64,
}

impl Pull {
    pub(crate) async fn run(self) -> Result<Pulled> {
        let client = Client::builder().no_proxy().build()?;
        tokio::time::sleep_until(self.start.into()).await;
        let head = self.send(&client, Method::HEAD, "manifests", &self.reference).await?;
        let digest =
            head.headers().get("docker-content-digest").context("the tag's answer names no digest")?;
        let manifest = self.send(&client, Method::GET, "manifests", digest.to_str()?).await?.bytes().await?;
        let Manifest { config, mut layers, .. } = serde_json::from_slice(&manifest)?;
        // The same layer twice is fetched once.
        let mut seen = HashSet::new();
        layers.retain(|layer| seen.insert(layer.digest.clone()));
        let (config_bytes, _) = self.blob(&client, &config).await?;
        let lacking = layers.iter().filter(|layer| !self.has.contains(&layer.digest));
        let blobs: Vec<(u64, Option<Instant>)> = stream::iter(lacking)
            .map(|layer| self.blob(&client, layer))
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await?;
        let finished = Instant::now();
        Ok(Pulled {
            first_byte: blobs.iter().filter_map(|(_, first)| *first).min().unwrap_or(finished),
            finished,
            bytes: manifest.len() as u64 + config_bytes + blobs.iter().map(|(bytes, _)| bytes).sum::<u64>(),
        })
    }

    /// Reads a blob to its end: its length, and when its first byte came.
    async fn blob(&self, client: &Client, blob: &Descriptor) -> Result<(u64, Option<Instant>)> {
        let response = self.send(client, Method::GET, "blobs", &blob.digest).await?;
        let mut body = response.bytes_stream();
        let (mut length, mut first) = (0, None);
        while let Some(piece) = body.next().await {
            first.get_or_insert_with(Instant::now);
            length += piece.with_context(|| format!("{} broke off after {length} bytes", blob.digest))?.len()
                as u64;
        }
        ensure!(length == blob.size, "{} has {length} bytes, not {}", blob.digest, blob.size);
        Ok((length, first))
    }

    async fn send(&self, client: &Client, method: Method, kind: &str, what: &str) -> Result<Response> {
        let url = format!("{}/v2/{}/{kind}/{what}", self.url, self.repository);
        let request = client.request(method, &url).header("accept", MANIFEST_TYPES);
        let response = request.send().await?;
        ensure!(response.status().is_success(), "{url}: {}", response.status());
        Ok(response)
    }
}
