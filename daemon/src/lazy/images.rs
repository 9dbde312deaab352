//! Images whose layers are read in parts: what they consist of, and that whoever asks may read them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_lazyfs::link::messages::ImageRef as AskedImage;
use shoal_proto::{Digest, ImageName, ImageNameError, Reference};
use shoal_registry_proxy::{Accept, Authorization, Caller, ImageRef, Refusal};
use tokio::sync::Mutex as AsyncMutex;

use super::manifest::{Descriptor, ManifestError, Parsed, chain_ids, diff_ids, parse};
use crate::blobs::Wanted;
use crate::images::{ManifestAlone, Mirror};

/// Images that are remembered; what is forgotten is resolved anew, and authorised anew.
const MOST: usize = 1024;
/// An image that was read with somebody's own credentials is forgotten, and they with it, when nobody asked for so long.
const WITH_CREDENTIALS: Duration = Duration::from_secs(3600);
/// How often credentials are looked through for those that are too old.
const SWEEP: Duration = Duration::from_secs(60);
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

/// Images, and when each was asked for last.
type Known = HashMap<AskedImage, (Slot, Instant)>;

/// An image, and the credentials that were borrowed to read it, where it cannot be read otherwise.
type Resolved = (Arc<Image>, Option<String>);

/// Resolves images. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    mirror: Arc<Mirror>,
    known: Arc<Mutex<Known>>,
}

impl Images {
    pub(crate) fn new(mirror: Arc<Mirror>) -> Self {
        Self { mirror, known: Arc::default() }
    }

    /// Forgets credentials in time, for as long as the node runs.
    pub(crate) async fn sweep(self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.mirror.forget_old();
            let is_old = |at: &Instant| at.elapsed() >= WITH_CREDENTIALS;
            self.known().retain(|asked, (_, at)| asked.authorization.is_none() || !is_old(at));
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slot(&self, asked: AskedImage) -> Slot {
        let mut known = self.known();
        if known.len() >= MOST && !known.contains_key(&asked) {
            known.clear();
        }
        let (slot, at) = known.entry(asked).or_insert_with(|| (Slot::default(), Instant::now()));
        *at = Instant::now();
        slot.clone()
    }

    /// What an image is now. The registry, or what the cluster knows of it, says whether this caller may read it.
    pub(super) async fn resolve(&self, asked: &AskedImage) -> Result<Resolved, ImageError> {
        let (image, borrowed) = self.read_or_borrow(asked).await?;
        let authorization = borrowed.clone().or_else(|| asked.authorization.clone());
        let by_digest = AskedImage { name: image.name.clone(), authorization };
        *self.slot(by_digest).lock().await = Some(image.clone());
        Ok((image, borrowed))
    }

    /// An image that this caller was let read since the daemon's start; else it is resolved.
    pub(super) async fn let_read(&self, asked: &AskedImage) -> Result<Arc<Image>, ImageError> {
        let slot = self.slot(asked.clone());
        let mut known = slot.lock().await;
        if let Some(image) = known.as_ref() {
            return Ok(image.clone());
        }
        let (image, borrowed) = self.read_or_borrow(asked).await?;
        // Who borrows does so each time, and so only for as long as there is something to borrow.
        if borrowed.is_none() {
            *known = Some(image.clone());
        }
        Ok(image)
    }

    /// Who has no credentials, and is refused without, may read what a pull was let read a moment ago with its own: by
    /// the digest of the very manifest, for only that is certain to be what was pulled. The registry is asked again.
    async fn read_or_borrow(&self, asked: &AskedImage) -> Result<Resolved, ImageError> {
        let refused = match self.read(asked).await {
            Err(refused @ ImageError::Refused(_)) if asked.authorization.is_none() => refused,
            read => return Ok((Arc::new(read?), None)),
        };
        let ImageName { registry, repository, reference } = asked.name.parse()?;
        let Some(shown) = self.mirror.shown(&ImageRef { registry, repository, reference }) else {
            return Err(refused);
        };
        let borrowed = Some(shown.expose().to_owned());
        let read = self.read(&AskedImage { authorization: borrowed.clone(), ..asked.clone() }).await;
        read.map(|image| (Arc::new(image), borrowed)).map_err(|_| refused)
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
