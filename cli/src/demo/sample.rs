//! The embedded image: several layers of incompressible files, the largest as large as asked for.

use bytes::Bytes;
use serde_json::json;
use shoal_proto::{Algorithm, Digest};
use shoal_store::ContentHasher;

/// An image in memory.
#[derive(Debug)]
pub(super) struct Sample {
    pub manifest: (Digest, Bytes),
    /// Configuration first.
    pub blobs: Vec<(Digest, Bytes)>,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layer with one file of so many bytes that no compression makes smaller.
fn layer(name: &str, size: u64) -> anyhow::Result<Bytes> {
    let mut random = fastrand::Rng::with_seed(size);
    let mut content = vec![0; usize::try_from(size)?];
    random.fill(&mut content);
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    let mut archive = tar::Builder::new(Vec::with_capacity(content.len() + 2048));
    archive.append_data(&mut header, name, content.as_slice())?;
    Ok(archive.into_inner()?.into())
}

fn digested(bytes: Bytes) -> (Digest, Bytes) {
    (ContentHasher::digest(Algorithm::Sha256, &bytes), bytes)
}

/// Makes the image: layers of 1 KiB, 300 KiB, 5 MiB, 40 MiB and `largest` bytes.
pub(super) fn make(largest: u64) -> anyhow::Result<Sample> {
    let sizes = [1 << 10, 300 << 10, 5 << 20, 40 << 20, largest];
    let mut layers = Vec::new();
    for (number, size) in sizes.into_iter().enumerate() {
        layers.push(digested(layer(&format!("file-{number}"), size)?));
    }
    let diff_ids: Vec<String> = layers.iter().map(|(digest, _)| digest.to_string()).collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = digested(serde_json::to_vec(&config)?.into());
    let descriptor = |media_type: &str, (digest, bytes): &(Digest, Bytes)| json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()});
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": layers.iter().map(|layer| descriptor(LAYER, layer)).collect::<Vec<_>>(),
    });
    let manifest = digested(serde_json::to_vec(&manifest)?.into());
    let blobs = std::iter::once(config).chain(layers).collect();
    Ok(Sample { manifest, blobs })
}

impl Sample {
    /// Length of all blobs and the manifest, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        let blobs: usize = self.blobs.iter().map(|(_, bytes)| bytes.len()).sum();
        (blobs + self.manifest.1.len()) as u64
    }

    pub(super) fn media_type(&self) -> &'static str {
        MANIFEST
    }
}
