//! Images that are made on the spot, with layers in files.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::json;
use shoal_proto::Digest;

/// Where images are put that are made on the spot.
pub(crate) const REPOSITORY: &str = "bench/image";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// What clients say they take.
pub(crate) const MANIFEST_TYPES: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json";
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

/// A blob of an image.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub content: Content,
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
}

/// Where the bytes of a blob are.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    File(PathBuf),
    Text(String),
    /// In the origin already.
    Origin,
}

#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub repository: String,
    /// A tag, or a digest.
    pub reference: String,
    pub manifest: String,
    pub media_type: String,
    pub config: Blob,
    /// Each once.
    pub layers: Vec<Blob>,
}

/// What counts of a manifest.
#[derive(Deserialize)]
pub(crate) struct Manifest {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Descriptor {
    pub digest: String,
    pub size: u64,
}

impl Blob {
    pub(crate) fn file(&self) -> Result<&Path> {
        match &self.content {
            Content::File(file) => Ok(file),
            Content::Text(_) | Content::Origin => bail!("{} is in no file", self.digest),
        }
    }

    pub(crate) fn text(&self) -> Result<String> {
        match &self.content {
            Content::Text(text) => Ok(text.clone()),
            Content::File(file) => {
                std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
            }
            Content::Origin => bail!("{} is only in the origin", self.digest),
        }
    }
}

impl Image {
    /// An image of these layers. Nobody unpacks it: to networks and disks they are compressed archives.
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
        let (digest, size) = (digest(config.as_bytes()), config.len() as u64);
        let config = Blob { content: Content::Text(config), digest, size };
        let file = |Layer { file, digest, size }| Blob { content: Content::File(file), digest, size };
        let layers: Vec<Blob> = layers.into_iter().map(file).collect();
        let descriptor = |kind, blob: &Blob| json!({"mediaType": kind, "digest": blob.digest.to_string(), "size": blob.size});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(CONFIG_TYPE, &config),
            "layers": layers.iter().map(|layer| descriptor(LAYER_TYPE, layer)).collect::<Vec<_>>(),
        })
        .to_string();
        let media_type = OCI_MANIFEST.to_owned();
        Self {
            repository: REPOSITORY.to_owned(),
            reference: tag.to_owned(),
            manifest,
            media_type,
            config,
            layers,
        }
    }

    /// An image that exists, by its manifest for one platform; `content` tells where a blob's bytes are.
    pub(crate) fn existing(
        repository: String,
        reference: String,
        manifest: String,
        content: impl Fn(&Digest) -> Content,
    ) -> Result<Self> {
        let Manifest { media_type, config, layers } = serde_json::from_str(&manifest)
            .context("the manifest is not that of an image for one platform")?;
        let blob = |Descriptor { digest, size }: Descriptor| -> Result<Blob> {
            let digest = digest.parse().with_context(|| format!("the manifest names {digest:?}"))?;
            Ok(Blob { content: content(&digest), digest, size })
        };
        let mut blobs: Vec<Blob> = Vec::new();
        for layer in layers {
            let layer = blob(layer)?;
            if blobs.iter().all(|known| known.digest != layer.digest) {
                blobs.push(layer);
            }
        }
        let media_type = media_type.unwrap_or_else(|| OCI_MANIFEST.to_owned());
        Ok(Self { repository, reference, manifest, media_type, config: blob(config)?, layers: blobs })
    }

    /// Bytes of all blobs and of the manifest.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes_without(&[])
    }

    /// Bytes that somebody lacks who has these layers.
    pub(crate) fn bytes_without(&self, had: &[Digest]) -> u64 {
        let lacking = self.layers.iter().filter(|layer| !had.contains(&layer.digest));
        self.manifest.len() as u64 + self.config.size + lacking.map(|layer| layer.size).sum::<u64>()
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
