//! What a manifest refers to.

use serde::Deserialize;
use shoal_proto::Digest;

/// Children that are read from one manifest: an image has at most some hundred layers, an index as many
/// platforms; what lists more is not an image that anybody runs.
const MAX_CHILDREN: usize = 4096;

/// What one manifest lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Children {
    /// Of an index or manifest list: manifests for platforms.
    pub manifests: Vec<Child>,
    /// Configuration and layers.
    pub blobs: Vec<Child>,
    /// Which of them is the configuration.
    pub config: Option<Digest>,
}

/// A descriptor, as far as it is needed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub digest: Digest,
    /// In bytes, as the manifest claims.
    pub size: u64,
    pub media_type: String,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    size: u64,
    #[serde(rename = "mediaType", default)]
    media_type: String,
    /// Layers that lie elsewhere (foreign layers) are not the registry's to deliver.
    #[serde(default)]
    urls: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Document {
    config: Option<Descriptor>,
    layers: Vec<Descriptor>,
    blobs: Vec<Descriptor>,
    manifests: Vec<Descriptor>,
}

impl Children {
    /// Reads OCI images, indexes and artifacts, Docker schema 2 and manifest lists. Anything else has no children:
    /// it is passed on all the same.
    pub(crate) fn of(manifest: &[u8]) -> Self {
        let document: Document = serde_json::from_slice(manifest).unwrap_or_default();
        let children = |descriptors: Vec<Descriptor>| -> Vec<Child> {
            descriptors.into_iter().filter_map(child).take(MAX_CHILDREN).collect()
        };
        let config = document.config.as_ref().and_then(|config| config.digest.parse().ok());
        let blobs = document.config.into_iter().chain(document.layers).chain(document.blobs).collect();
        Self { manifests: children(document.manifests), blobs: children(blobs), config }
    }
}

fn child(descriptor: Descriptor) -> Option<Child> {
    let digest: Digest = descriptor.digest.parse().ok()?;
    let told =
        descriptor.media_type.bytes().all(|b| b.is_ascii_graphic()) && descriptor.media_type.len() < 256;
    let whole = descriptor.urls.is_empty() && digest.fits_size(descriptor.size);
    (whole && told).then_some(Child { digest, size: descriptor.size, media_type: descriptor.media_type })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_indexes_are_read_and_the_rest_has_no_children() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let entry = format!(r#"{{"digest":"{digest}","size":5,"mediaType":"a/b"}}"#);
        let image = format!(r#"{{"config":{entry},"layers":[{entry},{entry}]}}"#);
        assert_eq!(Children::of(image.as_bytes()).blobs.len(), 3);
        let index = format!(r#"{{"manifests":[{entry}]}}"#);
        assert_eq!(Children::of(index.as_bytes()).manifests.len(), 1);
        for odd in ["", "[]", "{", "{\"layers\":5}", "{\"layers\":[{\"digest\":\"sha256:x\",\"size\":1}]}"] {
            assert_eq!(Children::of(odd.as_bytes()), Children::default(), "{odd}");
        }
    }

    #[test]
    fn foreign_layers_are_left_alone() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let text = format!(r#"{{"layers":[{{"digest":"{digest}","size":5,"urls":["http://a"]}}]}}"#);
        assert_eq!(Children::of(text.as_bytes()), Children::default());
    }
}
