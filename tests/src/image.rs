use std::io::Read as _;
use std::path::Path;

use bytes::Bytes;
use serde_json::json;
use shoal_proto::Digest;

/// A config or layer.
#[derive(Clone, Debug)]
pub struct Blob {
    pub media_type: String,
    pub digest: Digest,
    pub bytes: Bytes,
}

/// An image manifest or an index.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub media_type: String,
    pub digest: Digest,
    pub bytes: Bytes,
}

/// What one kind of machine pulls: a manifest with its config and layers.
#[derive(Clone, Debug)]
pub struct Platform {
    pub architecture: &'static str,
    pub manifest: Manifest,
    pub config: Blob,
    pub layers: Vec<Blob>,
}

impl Platform {
    /// Config and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// An image as a registry holds it, made by [`ImageBuilder`](crate::ImageBuilder).
#[derive(Clone, Debug)]
pub struct Image {
    /// What a tag names: the manifest of the only platform, or an index of them all.
    pub root: Manifest,
    pub platforms: Vec<Platform>,
}

impl Image {
    /// The digest of what a tag names.
    pub fn digest(&self) -> Digest {
        self.root.digest
    }

    pub fn is_index(&self) -> bool {
        self.platforms.iter().all(|platform| platform.manifest.digest != self.root.digest)
    }

    /// What a client on this machine pulls.
    pub fn here(&self) -> &Platform {
        let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        self.platforms.iter().find(|p| p.architecture == here).expect("images are built for this machine")
    }

    /// The manifests that a client on this machine reads: the index, if there is one, and its own.
    pub fn manifests_here(&self) -> Vec<&Manifest> {
        let own = &self.here().manifest;
        if self.is_index() { vec![&self.root, own] } else { vec![own] }
    }

    /// The files of a layer for this machine, by their paths. Its blob is gzip.
    pub fn files(&self, layer: usize) -> Vec<(String, Vec<u8>)> {
        let unpacked = flate2::read::GzDecoder::new(&*self.here().layers[layer].bytes);
        let mut tar = tar::Archive::new(unpacked);
        let files =
            tar.entries().unwrap().map(Result::unwrap).filter(|file| file.header().entry_type().is_file());
        let read = |mut file: tar::Entry<'_, _>| {
            let mut content = Vec::new();
            file.read_to_end(&mut content).unwrap();
            (file.path().unwrap().display().to_string(), content)
        };
        files.map(read).collect()
    }

    /// Bytes of config and layers for this machine.
    pub fn blob_bytes(&self) -> u64 {
        self.here().blobs().map(|blob| blob.bytes.len() as u64).sum()
    }

    /// Bytes of all that a client on this machine pulls, manifests included.
    pub fn total_bytes(&self) -> u64 {
        self.blob_bytes() + self.manifests_here().iter().map(|m| m.bytes.len() as u64).sum::<u64>()
    }

    /// All manifests, those that an index names before the index.
    pub fn manifests(&self) -> Vec<&Manifest> {
        let mut all: Vec<_> = self.platforms.iter().map(|platform| &platform.manifest).collect();
        if self.is_index() {
            all.push(&self.root);
        }
        all
    }

    /// All blobs of all platforms.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        self.platforms.iter().flat_map(Platform::blobs)
    }

    /// Writes an OCI layout folder in which `tag` names the image (OCI image specification,
    /// "Image Layout").
    pub fn write_layout(&self, folder: &Path, tag: &str) {
        let put = |digest: &Digest, bytes: &Bytes| {
            let kind = folder.join("blobs").join(digest.algorithm().name());
            std::fs::create_dir_all(&kind).unwrap();
            std::fs::write(kind.join(digest.hex()), bytes).unwrap();
        };
        self.blobs().for_each(|blob| put(&blob.digest, &blob.bytes));
        self.manifests().iter().for_each(|manifest| put(&manifest.digest, &manifest.bytes));
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": self.root.media_type,
                "digest": self.root.digest.to_string(),
                "size": self.root.bytes.len(),
                "annotations": { "org.opencontainers.image.ref.name": tag },
            }],
        });
        std::fs::write(folder.join("index.json"), index.to_string()).unwrap();
        std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }
}
