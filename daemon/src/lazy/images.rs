//! Images whose layers are read in parts: what they consist of, and that whoever asks may read them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use shoal_lazyfs::link::messages::ImageRef as AskedImage;
use shoal_proto::{Digest, ImageName, ImageNameError, Reference};
use shoal_registry_proxy::{Accept, Authorization, Caller, ImageRef, Refusal};
use tokio::sync::Mutex as AsyncMutex;

use super::manifest::{Descriptor, ManifestError, Parsed, chain_ids, diff_ids, parse};
use crate::blobs::Wanted;
use crate::images::{ManifestAlone, Mirror};

/// Images that are remembered; what is forgotten is resolved anew, and authorised anew.
const MOST: usize = 1024;
/// What an image may be, in the order in which clients ask for it.
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ImageError {
    #[error(transparent)]
    Name(#[from] ImageNameError),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// An image that somebody may read.
#[derive(Debug)]
pub(super) struct Image {
    /// Its name with the digest of its manifest.
    pub(super) name: String,
    pub(super) manifest: Digest,
    pub(super) config: Digest,
    /// The lowest layer first.
    pub(super) layers: Vec<Layer>,
}

/// A layer of it, and what the configuration claims of it.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) wanted: Wanted,
    pub(super) media_type: String,
    pub(super) diff_id: Digest,
    pub(super) chain_id: Digest,
}

/// One image, and the lock that makes those who ask at the same time wait for it.
type Slot = Arc<AsyncMutex<Option<Arc<Image>>>>;

/// Resolves images. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    mirror: Arc<Mirror>,
    known: Arc<Mutex<HashMap<AskedImage, Slot>>>,
}

impl Images {
    pub(crate) fn new(mirror: Arc<Mirror>) -> Self {
        Self { mirror, known: Arc::default() }
    }

    fn slot(&self, asked: AskedImage) -> Slot {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST {
            known.clear();
        }
        known.entry(asked).or_default().clone()
    }

    /// What an image is now. The registry, or what the cluster knows of it, says whether this caller may read it.
    pub(super) async fn resolve(&self, asked: &AskedImage) -> Result<Arc<Image>, ImageError> {
        let image = Arc::new(self.read(asked).await?);
        let by_digest = AskedImage { name: image.name.clone(), authorization: asked.authorization.clone() };
        *self.slot(by_digest).lock().await = Some(image.clone());
        Ok(image)
    }

    /// An image that this caller was let read since the daemon's start; else it is resolved.
    pub(super) async fn known(&self, asked: &AskedImage) -> Result<Arc<Image>, ImageError> {
        let slot = self.slot(asked.clone());
        let mut known = slot.lock().await;
        if let Some(image) = known.as_ref() {
            return Ok(image.clone());
        }
        let image = Arc::new(self.read(asked).await?);
        *known = Some(image.clone());
        Ok(image)
    }

    async fn read(&self, asked: &AskedImage) -> Result<Image, ImageError> {
        let ImageName { registry, repository, reference } = asked.name.parse()?;
        let caller = Caller { authorization: asked.authorization.as_deref().map(Authorization::new) };
        let mut image = ImageRef { registry, repository, reference };
        let (mut manifest, mut parsed) = self.manifest(&image, &caller).await?;
        if let Parsed::Other(digest) = parsed {
            image.reference = Reference::Digest(digest);
            (manifest, parsed) = self.manifest(&image, &caller).await?;
        }
        // An index that names an index is no image for any machine.
        let Parsed::Image { config, layers } = parsed else { return Err(ManifestError::NoImage.into()) };
        let wanted = self.mirror.listed(&manifest, config.digest, config.size).await?;
        let diff_ids = diff_ids(&self.mirror.small(wanted).await?, layers.len())?;
        let reference = Reference::Digest(manifest.digest);
        let ImageRef { registry, repository, .. } = image;
        Ok(Image {
            name: ImageName { registry, repository, reference }.to_string(),
            manifest: manifest.digest,
            config: config.digest,
            layers: self.layers(&manifest, layers, &diff_ids).await?,
        })
    }

    async fn manifest(
        &self,
        image: &ImageRef,
        caller: &Caller,
    ) -> Result<(ManifestAlone, Parsed), ImageError> {
        let manifest = self.mirror.manifest_alone(image, &Accept::new(ACCEPT), caller).await?;
        let parsed = parse(&manifest.bytes)?;
        Ok((manifest, parsed))
    }

    async fn layers(
        &self,
        manifest: &ManifestAlone,
        layers: Vec<Descriptor>,
        diff_ids: &[Digest],
    ) -> Result<Vec<Layer>, ImageError> {
        let mut listed = Vec::with_capacity(layers.len());
        for (layer, (diff_id, chain_id)) in layers.into_iter().zip(diff_ids.iter().zip(chain_ids(diff_ids))) {
            let Descriptor { digest, size, media_type, .. } = layer;
            let wanted = self.mirror.listed(manifest, digest, size).await?;
            listed.push(Layer { wanted, media_type, diff_id: *diff_id, chain_id });
        }
        Ok(listed)
    }
}
