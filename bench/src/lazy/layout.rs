//! Images in OCI layout folders.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::json;
use shoal_proto::Digest;

use crate::rig::image::{Content, Descriptor, Image, OCI_MANIFEST, REPOSITORY, digest};

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// What a container of an image runs, and its layers, as its configuration says.
#[derive(Clone, Debug, Deserialize)]
struct Configuration {
    #[serde(default)]
    config: Program,
    rootfs: RootFs,
}

#[derive(Clone, Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Program {
    pub entrypoint: Option<Vec<String>>,
    pub cmd: Option<Vec<String>>,
    pub env: Option<Vec<String>>,
    pub user: String,
}

/// Where a layout keeps a blob.
pub(super) fn blob(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join("blobs").join(digest.algorithm().name()).join(digest.hex())
}

/// The one image of a layout.
pub(super) fn read(folder: &Path, tag: &str) -> Result<Image> {
    let text = |path: &Path| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let index: Index = serde_json::from_str(&text(&folder.join("index.json"))?)
        .with_context(|| format!("{} is no OCI layout", folder.display()))?;
    let [manifest] = &*index.manifests else {
        anyhow::bail!("{} must hold one image, and holds {}", folder.display(), index.manifests.len());
    };
    let manifest = text(&blob(folder, &manifest.digest.parse()?))?;
    let image = Image::existing(REPOSITORY.to_owned(), tag.to_owned(), manifest, |digest| {
        Content::File(blob(folder, digest))
    })?;
    ensure!(!image.layers.is_empty(), "{} holds an image without layers", folder.display());
    Ok(image)
}

/// Writes all but the layers, which are there.
pub(super) fn write(folder: &Path, image: &Image) -> Result<()> {
    let manifest = digest(image.manifest.as_bytes());
    std::fs::write(blob(folder, &manifest), &image.manifest)?;
    std::fs::write(blob(folder, &image.config.digest), image.config.text()?)?;
    std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": OCI_MANIFEST,
            "digest": manifest.to_string(),
            "size": image.manifest.len(),
        }],
    });
    // Last: a layout without it is none.
    Ok(std::fs::write(folder.join("index.json"), index.to_string())?)
}

fn configuration(image: &Image) -> Result<Configuration> {
    serde_json::from_str(&image.config.text()?)
        .with_context(|| format!("the configuration of {}", image.reference))
}

/// What a container of the image runs.
pub(super) fn program(image: &Image) -> Result<Program> {
    Ok(configuration(image)?.config)
}

/// The name under which containerd keeps an image's top layer.
pub(super) fn chain_id(image: &Image) -> Result<Digest> {
    let mut top = None;
    for diff_id in configuration(image)?.rootfs.diff_ids {
        top = Some(shoal_lazyfs::chain::chain_id(top.as_ref(), &diff_id.parse()?));
    }
    top.context("the configuration names no layers")
}
