//! Which layers are shown instead of unpacked.
//!
//! containerd asks for an image's layers one after the other, lowest first, and once one was declined it downloads
//! all that follow. So the longest run of layers that have an index is taken, and none after it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shoal_proto::{Digest, ImageName, ImageNameError, Reference};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::folders::Usage;
use super::ledger::{OpenError, Places};
use super::policy::{Fill, Policy};
use super::report::report;
use super::rows::{KnownLayer, ShownLayer, Snapshot};
use crate::chain::chain_id;
use crate::erofs::Mounter;
use crate::fill::{FillRate, Pace, fill};
use crate::fs::SlotNumber;
use crate::images::{ImageError, Images};
use crate::layer_folders::LayerFolders;
use crate::link::{Image, Link, LinkError};
use crate::lock::lock;
use crate::span_cache::Patience;

/// The label with the chain id of the layer that containerd is about to fetch and unpack.
pub(super) const TARGET: &str = "containerd.io/snapshot.ref";
const IMAGE: &str = "containerd.io/snapshot/cri.image-ref";
const MANIFEST: &str = "containerd.io/snapshot/cri.manifest-digest";
const LAYER: &str = "containerd.io/snapshot/cri.layer-digest";

/// A pull waits no longer for the node than this. Then containerd fetches the layer, as it would without Shoal.
const ANSWERS: Duration = Duration::from_secs(10);
/// What an image consists of is asked once for all of its layers, which come within that time.
const RESOLVED: Duration = Duration::from_secs(60);
/// So long after a layer was declined those that follow are as well: containerd fetches them in any case.
const DECLINED: Duration = Duration::from_secs(600);
/// So long borrowed credentials are kept at most for layers that do not become whole.
const BORROWED: Duration = Duration::from_secs(24 * 3600);
/// Pulls that are remembered.
const PULLS: usize = 1024;

/// Why a layer is left to containerd.
#[derive(Debug, thiserror::Error)]
pub(super) enum Declined {
    #[error("the label {0} is missing or wrong")]
    Label(&'static str),
    #[error(transparent)]
    Name(#[from] ImageNameError),
    #[error("by configuration")]
    Policy,
    #[error("the image has {0} bytes only")]
    Small(u64),
    #[error("one below it was")]
    Before,
    #[error("what lies below it is not known")]
    Below,
    #[error("the node does not answer within {ANSWERS:?}")]
    Silent,
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the image has no such layer")]
    NotListed,
    #[error("{layer}: {why}")]
    NoIndex { layer: Digest, why: String },
    #[error("its tar and the layers below are not what it is called")]
    Chain,
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// A layer that is shown now.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) chain_id: Digest,
    pub(super) layer: ShownLayer,
}

/// A pull that is under way, presumably.
#[derive(Debug)]
struct Pull {
    at: Instant,
    /// Nothing once a layer was declined.
    image: Option<Arc<Image>>,
}

#[derive(Debug)]
pub(super) struct LazyLayers {
    link: Link,
    images: Images,
    folders: Arc<LayerFolders>,
    policy: Policy,
    rate: Arc<FillRate>,
    pulls: Mutex<HashMap<String, Pull>>,
    /// Layers that a task lets become whole.
    filling: Arc<Mutex<HashMap<Digest, AbortHandle>>>,
}

impl LazyLayers {
    /// Shows again what was shown before, as far as it is on this disk.
    pub(super) async fn open<'a>(
        places: Places,
        link: Link,
        policy: Policy,
        mounter: Option<Arc<dyn Mounter>>,
        shown: impl Iterator<Item = &'a ShownLayer>,
    ) -> Result<Self, OpenError> {
        let mut free = 0;
        for known in shown.flat_map(|shown| &shown.layers) {
            free = free.max(known.slot.saturating_add(1));
            if let Some((layer, served)) = known.parse() {
                link.serve(layer, served);
            }
        }
        let images =
            Images::open(&places.state.join("cache"), Arc::new(link.clone()), Patience::default()).await?;
        // Containers may still run on these numbers, though the cache was lost.
        images.keep_free(SlotNumber(free)).await?;
        let images_at = places.state.join("images");
        let folders = LayerFolders::open(images.fs().clone(), places.fuse, places.erofs, images_at, mounter)?;
        let rate = Arc::new(FillRate::bytes_per_second(policy.fill_rate));
        Ok(Self {
            link,
            images,
            folders: Arc::new(folders),
            policy,
            rate,
            pulls: Mutex::default(),
            filling: Arc::default(),
        })
    }

    pub(super) fn images(&self) -> &Images {
        &self.images
    }

    /// Where layers are seen.
    pub(super) fn folders(&self) -> &Arc<LayerFolders> {
        &self.folders
    }

    /// Whether all of them are under the numbers that they were shown under.
    pub(super) fn is_shown(&self, layer: &ShownLayer) -> bool {
        layer.layers.iter().all(|known| {
            let parsed = known.parse();
            parsed.is_some_and(|(layer, served)| {
                self.images.shows(SlotNumber(known.slot), &layer, served.index.id)
            })
        })
    }

    /// Shows again what could not be shown from this disk. Returns it with its numbers, which are others if the cache
    /// was lost.
    pub(super) async fn show(&self, layer: &ShownLayer) -> Result<ShownLayer, Declined> {
        let parsed = layer.layers.iter().map(KnownLayer::parse);
        let layers: Vec<_> = parsed.collect::<Option<_>>().ok_or(Declined::NotListed)?;
        let digests: Vec<Digest> = layers.iter().map(|(digest, _)| *digest).collect();
        let shown = tokio::time::timeout(ANSWERS, self.images.add(&digests)).await;
        let slots = shown.map_err(|_| Declined::Silent)??;
        let known =
            layers.iter().zip(slots).map(|((digest, served), slot)| KnownLayer::new(digest, served, slot));
        Ok(ShownLayer { layers: known.collect() })
    }

    /// Shows a layer over `below`, the chain id of its parent, if it may be shown.
    pub(super) async fn take(
        &self,
        below: Option<Digest>,
        labels: &BTreeMap<String, String>,
    ) -> Result<Taken, Declined> {
        let label = |name: &'static str| labels.get(name).ok_or(Declined::Label(name));
        let target: Digest = label(TARGET)?.parse().map_err(|_| Declined::Label(TARGET))?;
        let mut name: ImageName = label(IMAGE)?.parse()?;
        if let Some(manifest) = labels.get(MANIFEST) {
            // The very one that containerd pulls, whatever the tag means by now.
            name.reference = Reference::Digest(manifest.parse().map_err(|_| Declined::Label(MANIFEST))?);
        }
        if !self.policy.allows(&name) {
            return Err(Declined::Policy);
        }
        let pull = name.to_string();
        if below.is_none() {
            lock(&self.pulls).remove(&pull);
        }
        let taking = tokio::time::timeout(ANSWERS, self.take_of(&pull, below, target, labels.get(LAYER)));
        let taken = taking.await.unwrap_or(Err(Declined::Silent));
        match &taken {
            Ok(taken) => self.fill_eager([&taken.layer].into_iter()),
            Err(_) => self.remember(pull, None),
        }
        taken
    }

    async fn take_of(
        &self,
        pull: &str,
        below: Option<Digest>,
        target: Digest,
        digest: Option<&String>,
    ) -> Result<Taken, Declined> {
        let image = self.resolve(pull).await?;
        let size = image.layers.iter().map(|layer| layer.size).sum();
        if size < self.policy.smallest {
            return Err(Declined::Small(size));
        }
        let at = image.layers.iter().position(|layer| layer.chain_id == target).ok_or(Declined::NotListed)?;
        let (layers, _) = image.layers.split_at(at + 1);
        if let Some(missing) = layers.iter().find(|layer| layer.index.is_err()) {
            let why = missing.index.as_ref().err().cloned().unwrap_or_default();
            return Err(Declined::NoIndex { layer: missing.digest, why });
        }
        let digests: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
        let own = digests.last().ok_or(Declined::NotListed)?;
        if digest.is_some_and(|digest| *digest != own.to_string()) {
            return Err(Declined::NotListed);
        }
        let slots = self.images.add(&digests).await?;
        let slot = *slots.last().ok_or(Declined::NotListed)?;
        // Not the configuration's word: what the builder of the index computed from the tar.
        let placed = self.images.fs().slot(slot).ok_or(Declined::NotListed)?;
        if chain_id(below.as_ref(), &placed.layer().index().diff_id) != target {
            return Err(Declined::Chain);
        }
        let known = digests.iter().zip(slots);
        let known = known.map(|(layer, slot)| Some(KnownLayer::new(layer, &self.link.served(layer)?, slot)));
        let layers = known.collect::<Option<_>>().ok_or(Declined::NotListed)?;
        self.folders.begin(slot);
        Ok(Taken { chain_id: target, layer: ShownLayer { layers } })
    }

    async fn resolve(&self, pull: &str) -> Result<Arc<Image>, Declined> {
        match lock(&self.pulls).get(pull) {
            Some(Pull { image: None, at }) if at.elapsed() < DECLINED => return Err(Declined::Before),
            Some(Pull { image: Some(image), at }) if at.elapsed() < RESOLVED => return Ok(image.clone()),
            _ => {}
        }
        let image = Arc::new(self.link.resolve(pull, None).await?);
        self.remember(pull.to_owned(), Some(image.clone()));
        Ok(image)
    }

    fn remember(&self, pull: String, image: Option<Arc<Image>>) {
        let mut pulls = lock(&self.pulls);
        if pulls.len() >= PULLS {
            pulls.retain(|_, pull| pull.at.elapsed() < RESOLVED);
        }
        if pulls.len() >= PULLS {
            pulls.clear();
        }
        pulls.insert(pull, Pull { at: Instant::now(), image });
    }

    /// Fetches what is to become whole at once: by configuration, or because what is borrowed to read it does not stay.
    pub(super) fn fill_eager<'a>(&self, layers: impl Iterator<Item = &'a ShownLayer>) {
        let is_eager = |layer: &&ShownLayer| {
            let Some(layer) = layer.layers.last() else { return false };
            let image = layer.image.parse();
            layer.borrowed || image.is_ok_and(|image| self.policy.fill(&image) == Fill::Eager)
        };
        self.fill(layers.filter(is_eager), Pace::EAGER);
    }

    /// A container starts on these layers.
    pub(super) fn used<'a>(&self, layers: impl IntoIterator<Item = &'a ShownLayer>) {
        if self.policy.fill != Fill::Never {
            self.fill(layers, Pace::default());
        }
    }

    /// Lets layers become whole that are not, and for which nobody does it yet.
    fn fill<'a>(&self, layers: impl IntoIterator<Item = &'a ShownLayer>, pace: Pace) {
        let slots: Vec<_> = layers.into_iter().map(ShownLayer::slot).collect();
        let mut filling = lock(&self.filling);
        let mut layers = self.images.layers(&slots);
        layers.retain(|layer| !layer.is_proved() && !filling.contains_key(layer.digest()));
        if layers.is_empty() {
            return;
        }
        let digests: Vec<_> = layers.iter().map(|layer| *layer.digest()).collect();
        let (begun, own, link) = (digests.clone(), self.filling.clone(), self.link.clone());
        let rate = self.rate.clone();
        let task = tokio::spawn(async move {
            link.borrow_again(&begun).await;
            let borrows = begun.iter().any(|layer| link.served(layer).is_some_and(|served| served.borrowed));
            let time = if borrows { BORROWED } else { Duration::MAX };
            if tokio::time::timeout(time, fill(layers, pace, &rate)).await.is_err() {
                tracing::warn!("an image does not become whole; what was borrowed to read it is given back");
            }
            begun.iter().for_each(|layer| link.give_back(layer));
            lock(&own).retain(|layer, _| !begun.contains(layer));
        });
        filling.extend(digests.into_iter().map(|layer| (layer, task.abort_handle())));
    }

    /// Shows no more what no snapshot needs. These are all that any snapshot needs.
    pub(super) async fn release(&self, needed: &[KnownLayer]) {
        let slots: HashSet<u32> = needed.iter().map(|layer| layer.slot).collect();
        // Not waited for: at a start nobody answers yet who reads in them.
        drop(self.folders.retain(&slots));
        // Those above first: they have the larger numbers.
        for slot in self.images.fs().slots().into_iter().rev().filter(|slot| !slots.contains(&slot.0)) {
            let Some(placed) = self.images.fs().slot(slot) else { continue };
            let layer = *placed.layer().digest();
            drop(placed);
            let through = self.link.served(&layer).map(|served| served.image);
            let of_it = || needed.iter().filter_map(KnownLayer::parse).filter(|(other, _)| *other == layer);
            match of_it().next() {
                Some(_) if of_it().any(|(_, served)| Some(served.image) == through) => {}
                // Through another image from now on.
                Some((layer, served)) => self.link.serve(layer, served),
                None => {
                    self.stop_filling(&layer);
                    self.link.forget(&layer);
                }
            }
            match self.images.remove(slot).await {
                Ok(removed) => tracing::debug!(slot = slot.0, removed, "a layer is not needed any more"),
                Err(error) => tracing::warn!(slot = slot.0, %error, "cannot free a layer"),
            }
        }
    }

    fn stop_filling(&self, layer: &Digest) {
        let mut filling = lock(&self.filling);
        let Some(task) = filling.get(layer).cloned() else { return };
        task.abort();
        filling.retain(|_, other| other.id() != task.id());
    }

    /// What is done and shown.
    pub(super) fn report<'a>(&self, shown: impl Iterator<Item = &'a ShownLayer>) {
        self.link.report(report(&self.images, shown));
    }

    /// Bytes of a layer on this disk, and files.
    pub(super) fn usage(&self, layer: &ShownLayer) -> Usage {
        let Some(placed) = self.images.fs().slot(layer.slot()) else { return Usage::default() };
        Usage { size: placed.layer().local_bytes(), files: placed.tree().nodes.len() as u64 }
    }
}

/// Those of these snapshots that are shown layers.
pub(super) fn shown<'a>(
    snapshots: impl Iterator<Item = (&'a str, &'a Snapshot)>,
) -> impl Iterator<Item = &'a ShownLayer> {
    snapshots.filter_map(|(_, snapshot)| snapshot.layer.as_ref())
}
