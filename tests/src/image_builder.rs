use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};
use shoal_proto::{Algorithm, Digest};

use crate::image::{Blob, Image, Manifest, Platform};

/// The two families of media types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Oci,
    DockerSchema2,
}

impl Format {
    fn manifest(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::DockerSchema2 => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    fn index(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.index.v1+json",
            Self::DockerSchema2 => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::DockerSchema2 => "application/vnd.docker.container.image.v1+json",
        }
    }

    fn layer(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::DockerSchema2 => "application/vnd.docker.image.rootfs.diff.tar.gzip",
        }
    }
}

#[derive(Clone, Debug)]
enum LayerSpec {
    Files { size: u64, content: Kind },
    Tar(Vec<u8>),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Random,
    /// The same byte again and again.
    Repeated,
    /// Words that come again and again: what compresses them looks back.
    Words,
}

/// Makes images from a seed: the same calls give the same bytes, so that a failure can be repeated.
#[derive(Clone, Debug)]
pub struct ImageBuilder {
    seed: u64,
    format: Format,
    layers: Vec<LayerSpec>,
    multi_platform: bool,
    algorithm: Algorithm,
    artifact: Option<String>,
    claimed: Option<Vec<String>>,
}

impl ImageBuilder {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            format: Format::Oci,
            layers: Vec::new(),
            multi_platform: false,
            algorithm: Algorithm::Sha256,
            artifact: None,
            claimed: None,
        }
    }

    pub fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Adds a layer with about `size` bytes of files that do not compress, so that its blob is about
    /// as large.
    pub fn layer(mut self, size: u64) -> Self {
        self.layers.push(LayerSpec::Files { size, content: Kind::Random });
        self
    }

    /// Adds a layer with about `size` bytes of files that compress well.
    pub fn compressible_layer(mut self, size: u64) -> Self {
        self.layers.push(LayerSpec::Files { size, content: Kind::Repeated });
        self
    }

    /// Adds a layer with about `size` bytes of files that compress to about a third, as programs and texts do.
    pub fn text_layer(mut self, size: u64) -> Self {
        self.layers.push(LayerSpec::Files { size, content: Kind::Words });
        self
    }

    /// Adds this tar as a layer.
    pub fn tar(mut self, tar: Vec<u8>) -> Self {
        self.layers.push(LayerSpec::Tar(tar));
        self
    }

    /// One image for amd64, one for arm64, and an index (or manifest list) of both.
    pub fn multi_platform(mut self) -> Self {
        self.multi_platform = true;
        self
    }

    /// Names config and layers by sha512. Manifests keep sha256: registries compute that themselves.
    pub fn sha512(mut self) -> Self {
        self.algorithm = Algorithm::Sha512;
        self
    }

    /// Not an image but an artifact: blobs of this media type, an empty config.
    pub fn artifact(mut self, media_type: &str) -> Self {
        self.artifact = Some(media_type.to_owned());
        self
    }

    /// The configuration claims these DiffIDs, whatever the layers are.
    pub fn claiming(mut self, diff_ids: &[Digest]) -> Self {
        self.claimed = Some(diff_ids.iter().map(Digest::to_string).collect());
        self
    }

    pub fn build(&self) -> Image {
        let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let other = if here == "amd64" { "arm64" } else { "amd64" };
        let architectures = if self.multi_platform { vec![other, here] } else { vec![here] };
        let platforms: Vec<_> = architectures.into_iter().map(|name| self.platform(name)).collect();
        let root = if self.multi_platform { self.index(&platforms) } else { platforms[0].manifest.clone() };
        Image { root, platforms }
    }

    fn platform(&self, architecture: &'static str) -> Platform {
        let mut random = fastrand::Rng::with_seed(self.seed + u64::from(architecture == "arm64"));
        let mut diff_ids = Vec::new();
        let mut layers = Vec::new();
        for (number, spec) in self.layers.iter().enumerate() {
            let tar = match spec {
                LayerSpec::Files { size, content } => tar(number, *size, *content, &mut random),
                LayerSpec::Tar(tar) => tar.clone(),
            };
            diff_ids.push(digest(Algorithm::Sha256, &tar).to_string());
            let media_type = self.artifact.as_deref().unwrap_or(self.format.layer());
            layers.push(self.blob(media_type, gzip(&tar)));
        }
        let diff_ids = self.claimed.clone().unwrap_or(diff_ids);
        let config = match &self.artifact {
            Some(_) => self.blob("application/vnd.oci.empty.v1+json", b"{}".to_vec()),
            None => self.blob(self.format.config(), config(architecture, self.seed, &diff_ids)),
        };
        let manifest = self.manifest(&config, &layers);
        Platform { architecture, manifest, config, layers }
    }

    fn manifest(&self, config: &Blob, layers: &[Blob]) -> Manifest {
        let mut body = json!({
            "schemaVersion": 2,
            "mediaType": self.format.manifest(),
            "config": descriptor(&config.media_type, &config.digest, &config.bytes),
            "layers": layers.iter().map(|l| descriptor(&l.media_type, &l.digest, &l.bytes)).collect::<Vec<_>>(),
        });
        if let Some(media_type) = &self.artifact {
            body["artifactType"] = json!(media_type);
        }
        manifest(self.format.manifest(), &body)
    }

    fn index(&self, platforms: &[Platform]) -> Manifest {
        let entries: Vec<_> = platforms
            .iter()
            .map(|platform| {
                let Manifest { media_type, digest, bytes } = &platform.manifest;
                let mut entry = descriptor(media_type, digest, bytes);
                entry["platform"] = json!({ "architecture": platform.architecture, "os": "linux" });
                entry
            })
            .collect();
        let media_type = self.format.index();
        manifest(media_type, &json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": entries }))
    }

    fn blob(&self, media_type: &str, bytes: Vec<u8>) -> Blob {
        let digest = digest(self.algorithm, &bytes);
        Blob { media_type: media_type.to_owned(), digest, bytes: bytes.into() }
    }
}

fn manifest(media_type: &str, body: &Value) -> Manifest {
    let bytes = Bytes::from(body.to_string());
    let digest = digest(Algorithm::Sha256, &bytes);
    Manifest { media_type: media_type.to_owned(), digest, bytes }
}

fn descriptor(media_type: &str, digest: &Digest, bytes: &Bytes) -> Value {
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
}

fn config(architecture: &str, seed: u64, diff_ids: &[String]) -> Vec<u8> {
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Cmd": ["/bin/true"], "Labels": { "seed": seed.to_string() } },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": diff_ids.iter().map(|_| json!({ "created_by": "test" })).collect::<Vec<_>>(),
    })
    .to_string()
    .into_bytes()
}

pub(crate) fn digest(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    match algorithm {
        Algorithm::Sha256 => Digest::from_hash(algorithm, &Sha256::digest(bytes)),
        Algorithm::Sha512 => Digest::from_hash(algorithm, &Sha512::digest(bytes)),
    }
    .unwrap()
}

/// A layer as a tar of a folder with several files, the last as large as all others together.
fn tar(number: usize, size: u64, content: Kind, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut folder = header(0, tar::EntryType::Directory, 0o755);
    tar.append_data(&mut folder, format!("layer{number}/"), std::io::empty()).unwrap();
    let mut left = size;
    for file in 0..8 {
        let len = if file == 7 { left } else { left / 8 };
        left -= len;
        let mut header = header(len, tar::EntryType::Regular, 0o644);
        let content = Content { random, kind: content };
        tar.append_data(&mut header, format!("layer{number}/file{file}"), content.take(len)).unwrap();
    }
    tar.into_inner().unwrap()
}

fn header(size: u64, kind: tar::EntryType, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(1_700_000_000);
    header
}

struct Content<'a> {
    random: &'a mut fastrand::Rng,
    kind: Kind,
}

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.kind {
            Kind::Random => self.random.fill(buffer),
            Kind::Repeated => buffer.fill(self.random.u8(b'a'..=b'z')),
            Kind::Words => {
                for word in buffer.chunks_mut(8) {
                    let number = self.random.u64(..4096).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    word.copy_from_slice(&number.to_le_bytes()[..word.len()]);
                }
            }
        }
        Ok(buffer.len())
    }
}

/// At level 1 this library writes one block however long the layer is, and such a layer has no index.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(2));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_image_and_another_seed_another() {
        let build = |seed| ImageBuilder::new(seed).layer(100_000).compressible_layer(50_000).build();
        assert_eq!(build(1).digest(), build(1).digest());
        assert_ne!(build(1).here().layers[0].digest, build(2).here().layers[0].digest);
    }

    #[test]
    fn layers_have_the_size_asked_for() {
        let image = ImageBuilder::new(3).layer(1_000_000).compressible_layer(1_000_000).build();
        let layers = &image.here().layers;
        // What does not compress grows a little, how much depends on the library that compresses.
        assert!((1_000_000..1_100_000).contains(&layers[0].bytes.len()), "{}", layers[0].bytes.len());
        assert!(layers[1].bytes.len() < 100_000, "{}", layers[1].bytes.len());
    }

    #[test]
    fn platforms_differ() {
        let image = ImageBuilder::new(4).layer(1000).multi_platform().build();
        assert!(image.is_index());
        assert_eq!(image.manifests().len(), 3);
        assert_eq!(image.manifests_here().len(), 2);
        assert_ne!(image.platforms[0].config.digest, image.platforms[1].config.digest);
    }
}
