//! What an image consists of: read from its manifest and its configuration.

use serde::{Deserialize, Deserializer, de};
use shoal_lazyfs::chain::chain_id;
use shoal_proto::{Digest, host_architecture};

/// Layers of one image; overlayfs takes no more than some hundred.
const MAX_LAYERS: usize = 512;

/// Why an image cannot be read lazily.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ManifestError {
    #[error("the {0} is not valid JSON of its kind")]
    Json(&'static str),
    #[error("the image is not for linux/{0}")]
    Platform(&'static str),
    #[error("it is no image: it has no configuration")]
    NoImage,
    #[error("the manifest has {layers} layers, the configuration {diff_ids}")]
    Layers { layers: usize, diff_ids: usize },
    #[error("a layer lies somewhere else than in the registry")]
    Elsewhere,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Descriptor {
    #[serde(deserialize_with = "digest")]
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(rename = "mediaType", default)]
    pub(super) media_type: String,
    #[serde(default)]
    urls: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(deserialize_with = "digest")]
    digest: Digest,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Document {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Listed>,
}

#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

fn digest<'de, D: Deserializer<'de>>(from: D) -> Result<Digest, D::Error> {
    String::deserialize(from)?.parse().map_err(de::Error::custom)
}

/// What a manifest says.
#[derive(Debug, PartialEq)]
pub(super) enum Parsed {
    /// Of an index: the manifest for this machine.
    Other(Digest),
    Image {
        config: Descriptor,
        layers: Vec<Descriptor>,
    },
}

pub(super) fn parse(manifest: &[u8]) -> Result<Parsed, ManifestError> {
    let document: Document = serde_json::from_slice(manifest).map_err(|_| ManifestError::Json("manifest"))?;
    if !document.manifests.is_empty() {
        let is_here = |listed: &&Listed| {
            let platform = listed.platform.as_ref();
            platform.is_some_and(|p| p.os == "linux" && p.architecture == host_architecture())
        };
        let found = document.manifests.iter().find(is_here);
        return found
            .map(|listed| Parsed::Other(listed.digest))
            .ok_or(ManifestError::Platform(host_architecture()));
    }
    let config = document.config.ok_or(ManifestError::NoImage)?;
    let layers = document.layers;
    if layers.iter().any(|layer| !layer.urls.is_empty()) {
        return Err(ManifestError::Elsewhere);
    }
    Ok(Parsed::Image { config, layers })
}

/// The DiffIDs that a configuration claims for this many layers.
pub(super) fn diff_ids(config: &[u8], layers: usize) -> Result<Vec<Digest>, ManifestError> {
    let config: Config = serde_json::from_slice(config).map_err(|_| ManifestError::Json("configuration"))?;
    let parsed = config.rootfs.diff_ids.iter().map(|text| text.parse()).collect::<Result<Vec<Digest>, _>>();
    let diff_ids = parsed.map_err(|_| ManifestError::Json("configuration"))?;
    let fits = layers == diff_ids.len() && layers <= MAX_LAYERS;
    if fits { Ok(diff_ids) } else { Err(ManifestError::Layers { layers, diff_ids: diff_ids.len() }) }
}

/// The chain id of each layer.
pub(super) fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(chain_id(chain.last(), diff_id));
    }
    chain
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shoal_proto::Algorithm;
    use shoal_store::ContentHasher;

    use super::*;

    fn descriptor(byte: u8) -> serde_json::Value {
        json!({ "digest": Digest::sha256([byte; 32]).to_string(), "size": 7, "mediaType": "x/y" })
    }

    fn parsed(value: &serde_json::Value) -> Result<Parsed, ManifestError> {
        parse(value.to_string().as_bytes())
    }

    #[test]
    fn an_image_and_an_index() {
        let image =
            parsed(&json!({ "config": descriptor(1), "layers": [descriptor(2), descriptor(3)] })).unwrap();
        assert!(matches!(image, Parsed::Image { layers, .. } if layers.len() == 2));
        let other = json!({ "digest": Digest::sha256([8; 32]).to_string(),
            "platform": { "os": "linux", "architecture": "vax" } });
        let here = json!({ "digest": Digest::sha256([9; 32]).to_string(),
            "platform": { "os": "linux", "architecture": host_architecture() } });
        let index = json!({ "manifests": [other.clone(), here] });
        assert_eq!(parsed(&index), Ok(Parsed::Other(Digest::sha256([9; 32]))));
        assert_eq!(
            parsed(&json!({ "manifests": [other] })),
            Err(ManifestError::Platform(host_architecture()))
        );
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert_eq!(parsed(&json!({ "layers": [] })), Err(ManifestError::NoImage));
        assert_eq!(parse(b"no JSON"), Err(ManifestError::Json("manifest")));
        let mut foreign = descriptor(2);
        foreign["urls"] = json!(["https://elsewhere.example/layer"]);
        let image = json!({ "config": descriptor(1), "layers": [foreign] });
        assert_eq!(parsed(&image), Err(ManifestError::Elsewhere));
        let config = json!({ "rootfs": { "diff_ids": [Digest::sha256([1; 32]).to_string()] } }).to_string();
        assert_eq!(diff_ids(config.as_bytes(), 1).unwrap().len(), 1);
        let refused = diff_ids(config.as_bytes(), 2);
        assert_eq!(refused, Err(ManifestError::Layers { layers: 2, diff_ids: 1 }));
    }

    #[test]
    fn chain_ids_are_hashes_of_the_chain_below_and_the_layer() {
        let diff_ids = [Digest::sha256([1; 32]), Digest::sha256([2; 32])];
        let both = ContentHasher::digest(
            Algorithm::Sha256,
            format!("sha256:{} sha256:{}", "01".repeat(32), "02".repeat(32)).as_bytes(),
        );
        assert_eq!(chain_ids(&diff_ids), [diff_ids[0], both]);
    }
}
