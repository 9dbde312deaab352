//! What the daemon says of an image.

use shoal_proto::Digest;

use super::LinkError;
use super::messages::{self, ImageInfo, LayerInfo};
use crate::index::IndexId;
use crate::source::ClaimedIndex;

/// An image as the daemon resolved it, for this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name with the digest of its manifest.
    pub name: String,
    pub manifest: Digest,
    pub config: Digest,
    /// The lowest layer first.
    pub layers: Vec<Layer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    pub media_type: String,
    /// As the configuration claims. The index, where there is one, was built from a tar that has it.
    pub diff_id: Digest,
    pub chain_id: Digest,
    /// Or why there is none that may be used.
    pub index: Result<ClaimedIndex, String>,
}

impl TryFrom<ImageInfo> for Image {
    type Error = LinkError;

    fn try_from(info: ImageInfo) -> Result<Self, LinkError> {
        Ok(Self {
            name: info.name,
            manifest: info.manifest.parse()?,
            config: info.config.parse()?,
            layers: info.layers.into_iter().map(Layer::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<LayerInfo> for Layer {
    type Error = LinkError;

    fn try_from(info: LayerInfo) -> Result<Self, LinkError> {
        let index = match info.index {
            Some(messages::Index::Known(index)) => {
                let id = index.id.as_ref().try_into().map_err(|_| LinkError::Answer("no index id"))?;
                Ok(ClaimedIndex { id: IndexId(id), file: index.file.parse()?, len: index.len })
            }
            Some(messages::Index::Missing(why)) => Err(why),
            None => return Err(LinkError::Answer("nothing about an index")),
        };
        Ok(Self {
            digest: info.digest.parse()?,
            size: info.size,
            media_type: info.media_type,
            diff_id: info.diff_id.parse()?,
            chain_id: info.chain_id.parse()?,
            index,
        })
    }
}
