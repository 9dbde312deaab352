//! Images that are made on the spot, with layers in files.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;
use shoal_proto::Digest;

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Layers are made, and hashed, in such pieces.
const PIECE: usize = 128 << 10;

/// A layer in a file.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub file: PathBuf,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub tag: String,
    pub manifest: String,
    pub config: String,
    pub config_digest: Digest,
    pub layers: Vec<Layer>,
}

impl Image {
    pub(crate) fn new(tag: &str, layers: Vec<Layer>) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "created_by": tag,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Self::configured(tag, config.to_string(), layers)
    }

    /// An image of these layers, lowest first, with a configuration that tells what they are.
    pub(crate) fn configured(tag: &str, config: String, layers: Vec<Layer>) -> Self {
        let config_digest = digest(config.as_bytes());
        let descriptor = |kind, digest: &Digest, size: u64| json!({"mediaType": kind, "digest": digest.to_string(), "size": size});
        let layer = |layer: &Layer| descriptor(LAYER_TYPE, &layer.digest, layer.size);
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": descriptor(CONFIG_TYPE, &config_digest, config.len() as u64),
            "layers": layers.iter().map(layer).collect::<Vec<_>>(),
        })
        .to_string();
        Self { tag: tag.to_owned(), manifest, config, config_digest, layers }
    }

    /// Bytes of all blobs and of the manifest.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes_without(&[])
    }

    /// Bytes that somebody lacks who has these layers.
    pub(crate) fn bytes_without(&self, had: &[Digest]) -> u64 {
        let lacking = self.layers.iter().filter(|layer| !had.contains(&layer.digest));
        (self.manifest.len() + self.config.len()) as u64 + lacking.map(|layer| layer.size).sum::<u64>()
    }
}

/// Makes layers, no two of them alike. Their bytes are those of compressed archives as far as networks and disks can
/// tell: nobody unpacks them.
#[derive(Debug)]
pub(crate) struct LayerMaker<'a> {
    folder: &'a Path,
    /// How much of each piece is one repeated byte, in percent.
    compressible: u8,
    made: u64,
}

impl<'a> LayerMaker<'a> {
    pub(crate) fn new(folder: &'a Path, compressible: u8) -> Self {
        Self { folder, compressible, made: 0 }
    }

    pub(crate) fn layers(&mut self, sizes: &[u64]) -> Result<Vec<Layer>> {
        sizes.iter().map(|size| self.layer(*size)).collect()
    }

    fn layer(&mut self, size: u64) -> Result<Layer> {
        self.made += 1;
        let file = self.folder.join(format!("layer-{}", self.made));
        let written = write(&file, size, self.made, usize::from(self.compressible));
        let digest = written.with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Layer { file, digest, size })
    }
}

fn write(path: &Path, size: u64, seed: u64, compressible: usize) -> Result<Digest> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    let mut file = File::create(path)?;
    let mut piece = vec![0; PIECE];
    let mut left = size;
    while left > 0 {
        piece.truncate(usize::try_from(left).unwrap_or(PIECE));
        let same = piece.len() * compressible / 100;
        let (same, other) = piece.split_at_mut(same);
        same.fill(b'.');
        random.fill(other);
        hash.update(&piece);
        file.write_all(&piece)?;
        left -= piece.len() as u64;
    }
    // Written now, so that the kernel does not do it in the middle of a measurement.
    file.sync_all()?;
    Ok(sha256(hash.finish()))
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    sha256(ring::digest::digest(&ring::digest::SHA256, bytes))
}

/// The digest of all that can be read.
pub(crate) fn digest_of(mut from: impl Read) -> std::io::Result<Digest> {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(sha256(hash.finish())),
            read => hash.update(piece.get(..read).unwrap_or_default()),
        }
    }
}

fn sha256(hash: ring::digest::Digest) -> Digest {
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(hash.as_ref()).for_each(|(to, from)| *to = *from);
    Digest::sha256(bytes)
}
