//! An image with one large layer in a file, made from a seed.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use shoal_proto::{Algorithm, Digest};
use shoal_store::ContentHasher;

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
// Not compressed, so no compressor has to run; nobody unpacks it.
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
/// In such pieces the layer is made.
const PIECE: usize = 1 << 20;

#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub file: PathBuf,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub manifest: String,
    pub manifest_digest: Digest,
    pub config: String,
    pub config_digest: Digest,
    pub layer: Layer,
}

impl Sample {
    /// Writes the layer, `size` bytes that do not compress, to `folder`.
    pub(crate) fn make(folder: &Path, size: u64, seed: u64) -> Result<Self> {
        let layer = layer(folder.join(format!("layer-{seed}")), size, seed)?;
        Ok(Self::of(layer, LAYER_TYPE, &json!({ "architecture": "amd64", "os": "linux", "seed": seed })))
    }

    /// An image of this layer.
    pub(crate) fn of(layer: Layer, media_type: &str, config: &Value) -> Self {
        let config = config.to_string();
        let config_digest = ContentHasher::digest(Algorithm::Sha256, config.as_bytes());
        let descriptor = |kind, digest: &Digest, size: u64| {
            json!({
                "mediaType": kind, "digest": digest.to_string(), "size": size
            })
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(CONFIG_TYPE, &config_digest, config.len() as u64),
            "layers": [descriptor(media_type, &layer.digest, layer.size)],
        })
        .to_string();
        let manifest_digest = ContentHasher::digest(Algorithm::Sha256, manifest.as_bytes());
        Self { manifest, manifest_digest, config, config_digest, layer }
    }
}

/// A file of `size` bytes that do not compress.
pub(crate) fn layer(path: PathBuf, size: u64, seed: u64) -> Result<Layer> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut hasher = ContentHasher::new(Algorithm::Sha256);
    let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let mut buffer = vec![0; PIECE];
    let mut left = size;
    while left > 0 {
        buffer.truncate(usize::try_from(left).unwrap_or(PIECE));
        random.fill(&mut buffer);
        hasher.update(&buffer);
        file.write_all(&buffer).with_context(|| format!("write {}", path.display()))?;
        left -= buffer.len() as u64;
    }
    // Written now, so that the kernel does not do it in the middle of a measurement.
    file.sync_all()?;
    Ok(Layer { file: path, digest: hasher.finish(), size })
}
