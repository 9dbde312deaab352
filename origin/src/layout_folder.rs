//! An OCI layout folder as an origin: `index.json` and `blobs/<algorithm>/<hex>` (OCI image layout).
//!
//! Digests are parsed before they become a path, so none leads out of the folder.

use std::io::{ErrorKind, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::Deserialize;
use shoal_proto::{Digest, Reference, RegistryName, Repository};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use crate::blob_stream::BlobStream;
use crate::counters::Counters;
use crate::error::{Failure, OriginError};
use crate::origin::{ManifestBody, ManifestHead, PassPath, Passed, hash};
use crate::well_known;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

// Of `index.json` and of manifests: more than any client takes.
const MAX_INDEX: u64 = 8 << 20;

// Indexes within indexes, and indexes in all, that are looked into for a name: layouts have one or two.
const MAX_DEPTH: usize = 3;
const MAX_INDEXES: usize = 64;

// Large enough that a read is not dominated by the switch to a thread that may block.
const READ_SIZE: usize = 256 << 10;

pub(crate) struct LayoutFolder {
    registry: RegistryName,
    path: PathBuf,
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Descriptor>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: Option<String>,
    digest: String,
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

/// The parts of a manifest that tell what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    media_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
}

impl LayoutFolder {
    pub(crate) fn new(registry: RegistryName, path: PathBuf) -> Self {
        Self { registry, path }
    }

    pub(crate) async fn head_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<ManifestHead, Failure> {
        let body = self.get_manifest(repository, reference, MAX_INDEX).await?;
        Ok(ManifestHead {
            digest: Some(body.digest),
            size: Some(body.bytes.len() as u64),
            media_type: body.media_type,
        })
    }

    pub(crate) async fn get_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        max_bytes: u64,
    ) -> Result<ManifestBody, Failure> {
        let digest = match reference {
            Reference::Digest(digest) => *digest,
            Reference::Tag(tag) => self.resolve(repository, tag.as_str()).await?,
        };
        let bytes = read_file(&self.blob_path(&digest), max_bytes).await?;
        let got = hash(digest.algorithm(), &bytes);
        if got != digest {
            return Err(Failure::wrong_digest(digest, got));
        }
        Ok(ManifestBody { media_type: Some(media_type_of(&bytes)?), bytes, digest })
    }

    pub(crate) async fn size(&self, digest: &Digest) -> Result<u64, Failure> {
        let metadata = tokio::fs::metadata(self.blob_path(digest)).await.map_err(|e| folder_failure(&e))?;
        if metadata.is_file() { Ok(metadata.len()) } else { Err(Failure::NotFound) }
    }

    pub(crate) async fn read(
        &self,
        digest: &Digest,
        size: u64,
        range: Range<u64>,
        subject: String,
        counters: Arc<Counters>,
    ) -> Result<BlobStream, Failure> {
        let got = self.size(digest).await?;
        if got != size {
            return Err(Failure::WrongLength { want: size, got });
        }
        let mut file = File::open(self.blob_path(digest)).await.map_err(|e| folder_failure(&e))?;
        file.seek(SeekFrom::Start(range.start)).await.map_err(|e| folder_failure(&e))?;
        let pieces = ReaderStream::with_capacity(file.take(range.end - range.start), READ_SIZE);
        let cut = stream::iter([None]);
        // A file that was cut while it was read ends early: that must not look like the end of the range.
        let pieces = pieces.map(Some).chain(cut).scan(range.start, move |at, piece| {
            let item = match piece {
                Some(Ok(piece)) => {
                    *at += piece.len() as u64;
                    counters.count_received(piece.len());
                    Some(Ok(piece))
                }
                Some(Err(error)) => Some(Err(OriginError::new(subject.as_str(), folder_failure(&error)))),
                None if *at < range.end => {
                    Some(Err(OriginError::new(subject.as_str(), Failure::Cut { at: *at })))
                }
                None => None,
            };
            std::future::ready(item)
        });
        Ok(BlobStream::new(range, pieces))
    }

    pub(crate) async fn pass(&self, repository: &Repository, path: &PassPath) -> Result<Passed, Failure> {
        let PassPath::Tags = path else { return Err(Failure::NotFound) };
        let mut tags: Vec<String> =
            self.named().await?.iter().filter_map(|(name, _)| self.tag_in(name, repository)).collect();
        tags.sort_unstable();
        tags.dedup();
        if tags.is_empty() {
            return Err(Failure::NotFound);
        }
        Ok(Passed::json(&serde_json::json!({ "name": repository.as_str(), "tags": tags })))
    }

    /// The manifest that the layout names `repository:tag`, or else just `tag`.
    async fn resolve(&self, repository: &Repository, tag: &str) -> Result<Digest, Failure> {
        let named = self.named().await?;
        let full = named
            .iter()
            .find(|(name, _)| name.contains(':') && self.tag_in(name, repository).as_deref() == Some(tag));
        let bare = || named.iter().find(|(name, _)| name == tag);
        full.or_else(bare).map(|(_, digest)| *digest).ok_or(Failure::NotFound)
    }

    /// The tag that a name gives in a repository: names are `tag`, `repository:tag` or `registry/repository:tag`.
    fn tag_in(&self, name: &str, repository: &Repository) -> Option<String> {
        let Some((path, tag)) = name.rsplit_once(':') else { return Some(name.to_owned()) };
        let own = format!("{}/", self.registry);
        let path: Repository = path.strip_prefix(&own).unwrap_or(path).parse().ok()?;
        let canonical = |repository| well_known::canonical_repository(&self.registry, repository);
        (canonical(&path) == canonical(repository)).then(|| tag.to_owned())
    }

    /// All names in the index and the indexes within, with what they name.
    async fn named(&self) -> Result<Vec<(String, Digest)>, Failure> {
        let mut found = Vec::new();
        let mut waiting = vec![(self.path.join("index.json"), 0)];
        let mut read = 0;
        while let Some((path, depth)) = waiting.pop() {
            read += 1;
            if read > MAX_INDEXES {
                return Err(Failure::Malformed("a layout with too many indexes"));
            }
            let bytes = read_file(&path, MAX_INDEX).await?;
            let index: Index = serde_json::from_slice(&bytes)
                .map_err(|_| Failure::Malformed("an index that is not JSON"))?;
            for descriptor in index.manifests {
                let Ok(digest) = descriptor.digest.parse::<Digest>() else { continue };
                for key in [REF_NAME, CONTAINERD_NAME] {
                    found.extend(descriptor.annotations.get(key).map(|name| (name.clone(), digest)));
                }
                // An index with a name is an image of many platforms; one without holds images.
                let nested = descriptor.media_type.as_deref() == Some(INDEX_TYPE);
                if nested && descriptor.annotations.is_empty() && depth < MAX_DEPTH {
                    waiting.push((self.blob_path(&digest), depth + 1));
                }
            }
        }
        Ok(found)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }
}

fn media_type_of(manifest: &[u8]) -> Result<String, Failure> {
    let outline: Outline =
        serde_json::from_slice(manifest).map_err(|_| Failure::Malformed("a manifest that is not JSON"))?;
    // The specification lets a manifest leave out its type; then its content tells.
    let guess = || if outline.manifests.is_some() { INDEX_TYPE } else { MANIFEST_TYPE }.to_owned();
    Ok(outline.media_type.clone().unwrap_or_else(guess))
}

async fn read_file(path: &Path, limit: u64) -> Result<Bytes, Failure> {
    let file = File::open(path).await.map_err(|error| folder_failure(&error))?;
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .await
        .map_err(|error| folder_failure(&error))?;
    if bytes.len() as u64 > limit { Err(Failure::TooLarge { limit }) } else { Ok(bytes.into()) }
}

fn folder_failure(error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::NotFound => Failure::NotFound,
        _ => Failure::Folder { reason: error.to_string() },
    }
}
