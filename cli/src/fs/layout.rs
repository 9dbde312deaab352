//! Images in an OCI layout folder, as a source of layers. Their indexes are built when they are asked for.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, join_all};
use serde::Deserialize;
use shoal_lazyfs::build::{DEFAULT_SPAN, IndexBuilder};
use shoal_lazyfs::index::encode_head;
use shoal_lazyfs::source::{Given, Giver, Giving, LayerSource, SourceError, Urgency};
use shoal_proto::Digest;
use shoal_store::ContentHasher;

/// As large as a manifest may be.
const MAX_JSON: u64 = 8 << 20;
/// Indexes within indexes: `index.json`, one for the platforms, and one more.
const MAX_DEPTH: usize = 3;
/// Bytes of a layer that are read at a time.
const PIECE: usize = 1 << 20;

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    #[serde(default)]
    annotations: HashMap<String, String>,
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
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// A layout folder.
pub(crate) struct LayoutSource {
    folder: PathBuf,
    /// Index files of layers that were asked for, and those that are being built.
    indexes: Mutex<HashMap<Digest, Building>>,
}

/// An index file that is built, once, for all who ask; nothing if it cannot be, which is logged. It is finished even if
/// nobody waits any more: the next one who asks gets it.
type Building = Shared<BoxFuture<'static, Option<Bytes>>>;

impl fmt::Debug for LayoutSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayoutSource").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl LayoutSource {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), indexes: Mutex::default() }
    }

    /// The layers of an image for a platform, lowest first. Without a tag the folder must hold one image only.
    pub(crate) fn layers(&self, tag: Option<&str>, platform: &str) -> anyhow::Result<Vec<Digest>> {
        let mut manifest: Manifest = read_json(&self.folder.join("index.json"))
            .with_context(|| format!("{} is no OCI layout", self.folder.display()))?;
        if let Some(tag) = tag {
            let name = "org.opencontainers.image.ref.name";
            manifest.manifests.retain(|found| {
                found.annotations.get(name).is_some_and(|found| found == tag || ends_in_tag(found, tag))
            });
            ensure!(!manifest.manifests.is_empty(), "{} holds no image {tag:?}", self.folder.display());
        }
        for _ in 0..MAX_DEPTH {
            let [found] = &*manifest.manifests else {
                manifest.manifests.retain(|found| found.platform.as_ref().is_some_and(|p| is(p, platform)));
                ensure!(
                    manifest.manifests.len() == 1,
                    "{} images fit; name one: oci:{}:TAG",
                    manifest.manifests.len(),
                    self.folder.display()
                );
                continue;
            };
            manifest = read_json(&self.blob(&found.digest.parse()?))?;
            if manifest.manifests.is_empty() {
                ensure!(!manifest.layers.is_empty(), "the image has no layers");
                return Ok(manifest
                    .layers
                    .iter()
                    .map(|layer| layer.digest.parse())
                    .collect::<Result<_, _>>()?);
            }
        }
        bail!("the layout's indexes are nested too deep")
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    /// Builds the indexes of layers, however long that takes. Who asks for one waits no longer than for any bytes.
    pub(crate) async fn build(&self, layers: impl Iterator<Item = &Digest>) {
        join_all(layers.map(|layer| self.building(layer))).await;
    }

    fn indexes(&self) -> MutexGuard<'_, HashMap<Digest, Building>> {
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn building(&self, layer: &Digest) -> Building {
        let (path, layer) = (self.blob(layer), *layer);
        let begin = || {
            let task = tokio::task::spawn_blocking(move || build(&path, layer));
            let built = async move {
                let built = task.await.unwrap_or_else(|_| bail!("shutting down"));
                built.inspect_err(|error| tracing::error!(%layer, "{error:#}")).ok()
            };
            built.boxed().shared()
        };
        self.indexes().entry(layer).or_insert_with(begin).clone()
    }

    async fn index_file(&self, layer: &Digest) -> Result<Bytes, SourceError> {
        let building = self.building(layer);
        let built = building.clone().await;
        if built.is_none() {
            // The file may have been put right by the next time.
            self.indexes().extract_if(|_, other| other.ptr_eq(&building)).for_each(drop);
        }
        built.ok_or(SourceError::NoIndex(*layer))
    }
}

fn ends_in_tag(name: &str, tag: &str) -> bool {
    name.strip_suffix(tag).is_some_and(|name| name.ends_with(':'))
}

fn is(found: &Platform, platform: &str) -> bool {
    format!("{}/{}", found.os, found.architecture) == platform
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let what = || format!("cannot read {}", path.display());
    let mut text = Vec::new();
    File::open(path).with_context(what)?.take(MAX_JSON).read_to_end(&mut text).with_context(what)?;
    serde_json::from_slice(&text).with_context(what)
}

/// Reads a layer whole, checks its digest and makes its index file.
fn build(path: &Path, layer: Digest) -> anyhow::Result<Bytes> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let size = file.metadata()?.len();
    let mut builder = IndexBuilder::new(layer, size, DEFAULT_SPAN, Vec::new())?;
    let mut hasher = ContentHasher::new(layer.algorithm());
    let mut piece = vec![0; PIECE];
    loop {
        let len = file.read(&mut piece)?;
        let bytes = piece.get(..len).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        hasher.update(bytes);
        builder.push(bytes).context("the layer cannot be read lazily")?;
    }
    let built = builder.finish().context("the layer cannot be read lazily")?;
    let got = hasher.finish();
    ensure!(got == layer, "the file has the digest {got}");
    let mut index = encode_head(&built.index, &built.window_lengths)?;
    index.extend_from_slice(&built.sink);
    Ok(index.into())
}

impl LayerSource for LayoutSource {
    fn index<'a>(
        &'a self,
        layer: &'a Digest,
        range: Range<u64>,
        _urgency: Urgency,
        _wrong: &'a [Giver],
    ) -> Giving<'a> {
        async move {
            let file = self.index_file(layer).await?;
            let range = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
            let range = range.filter(|(start, end)| start <= end && *end <= file.len());
            range
                .map(|(start, end)| Given::by_itself(file.slice(start..end)))
                .ok_or(SourceError::NoIndex(*layer))
        }
        .boxed()
    }

    fn layer<'a>(
        &'a self,
        layer: &'a Digest,
        range: Range<u64>,
        _urgency: Urgency,
        _wrong: &'a [Giver],
    ) -> Giving<'a> {
        let path = self.blob(layer);
        async move {
            let read = tokio::task::spawn_blocking(move || {
                let len = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or_default();
                let mut bytes = vec![0; len];
                File::open(path)?.read_exact_at(&mut bytes, range.start).map(|()| bytes)
            });
            let read = read.await.map_err(|_| SourceError::Unavailable(*layer))?;
            read.map(|bytes| Given::by_itself(bytes.into())).map_err(|error| {
                tracing::warn!(%layer, %error, "cannot read the layout");
                SourceError::Unavailable(*layer)
            })
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_index_that_takes_long_is_built_once_though_nobody_waited_for_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let tar = vec![0; 1024];
        let mut hasher = ContentHasher::new(shoal_proto::Algorithm::Sha256);
        hasher.update(&tar);
        let layer = hasher.finish();
        let source = LayoutSource::new(folder.path());
        let (file, elsewhere) = (source.blob(&layer), folder.path().join("elsewhere"));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, &tar).unwrap();
        assert!(source.index(&layer, 0..8, Urgency::Demand, &[]).now_or_never().is_none(), "it takes longer");
        let begun = source.building(&layer);
        begun.clone().await.unwrap();
        // Whoever builds it again finds nothing.
        std::fs::rename(&file, &elsewhere).unwrap();
        assert_eq!(&*source.index(&layer, 0..8, Urgency::Demand, &[]).await.unwrap().bytes, b"SHOALIX1");
        assert!(source.building(&layer).ptr_eq(&begun));

        let missing = Digest::sha256([1; 32]);
        let error = source.index(&missing, 0..8, Urgency::Demand, &[]).await.unwrap_err();
        assert_eq!(error, SourceError::NoIndex(missing));
        assert!(!source.indexes().contains_key(&missing), "it is tried again");
    }
}
