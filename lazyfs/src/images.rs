//! Images on the filesystem: each of their layers in its place, under a number that stays.

mod table;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, stream};
use shoal_proto::Digest;

use crate::chain::{PlacedLayer, TooMuchWork};
use crate::fs::{LazyFs, SlotNumber};
use crate::index::IndexId;
use crate::lock::lock;
use crate::source::LayerSource;
use crate::span_cache::{CacheError, Layer, Patience, SpanCache};
use table::{Place, SlotTable};

/// Layers that are opened at once at the start: containers wait, and each costs reading, decoding and memory.
const OPENED: usize = 8;

/// Why an image's layers cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("{layer}: {error}")]
    Chain { layer: Digest, error: TooMuchWork },
    #[error("cannot write {}: {error}", path.display())]
    Table { path: PathBuf, error: io::Error },
    #[error("the filesystem holds as many layers as it can")]
    Full,
}

/// All that `shoal fs` keeps: the cache, the numbers of layers in their places, and the filesystem that shows them.
#[derive(Debug)]
pub struct Images {
    cache: Arc<SpanCache>,
    table: Arc<Mutex<SlotTable>>,
    fs: Arc<LazyFs>,
}

impl Images {
    /// Opens the folder. What was shown before is shown again as far as it is on this disk; one bad layer hides no
    /// other image's.
    pub async fn open(
        folder: &Path,
        source: Arc<dyn LayerSource>,
        patience: Patience,
    ) -> Result<Self, ImageError> {
        let folder = folder.to_owned();
        let opened = blocking(move || {
            let cache = SpanCache::open(&folder, source, patience)?;
            let path = folder.join("slots");
            let table = SlotTable::open(&path).map_err(|error| ImageError::Table { path, error })?;
            Ok((cache, table))
        });
        let (cache, table) = opened.await?;
        let (shown, hidden) = (table.shown(), table.only_hidden());
        let images = Self { cache, table: Arc::new(Mutex::new(table)), fs: Arc::default() };
        images.restore(shown).await;
        for layer in hidden {
            images.cache.remove(&layer).await?;
        }
        Ok(images)
    }

    pub fn fs(&self) -> &Arc<LazyFs> {
        &self.fs
    }

    pub fn cache(&self) -> &Arc<SpanCache> {
        &self.cache
    }

    /// Gives out no number below this one from now on. For whoever has notes of its own of what was shown: the numbers
    /// in them are not given to other layers, even if the folder was lost.
    pub async fn keep_free(&self, below: SlotNumber) -> Result<(), ImageError> {
        let table = self.table.clone();
        blocking(move || lock(&table).keep_free(below.0)).await
    }

    /// Whether this layer, as this index shows it, is shown under this number.
    pub fn shows(&self, slot: SlotNumber, layer: &Digest, index: IndexId) -> bool {
        let placed = self.fs.slot(slot);
        placed.is_some_and(|placed| placed.layer().digest() == layer && placed.layer().index_id() == index)
    }

    /// Shows an image's layers, lowest first. Each is shown over those before it.
    pub async fn add(&self, layers: &[Digest]) -> Result<Vec<SlotNumber>, ImageError> {
        // Indexes first, all at once: an image whose indexes are slow to come holds up no other one.
        let opened = try_join_all(layers.iter().map(|layer| self.cache.layer(layer))).await?;
        let (table, fs) = (self.table.clone(), self.fs.clone());
        blocking(move || show(&table, &fs, opened)).await
    }

    /// Shows a layer in its place no more; nobody may use it there. What it takes of the disk is freed unless it is
    /// shown in another place. False if a layer is shown over it: then nothing changes. The number stays this place's.
    pub async fn remove(&self, slot: SlotNumber) -> Result<bool, ImageError> {
        let (table, fs) = (self.table.clone(), self.fs.clone());
        let removed = blocking(move || {
            let mut table = lock(&table);
            let shown = table.shown();
            let Some((_, Place { layer, .. })) = shown.iter().find(|(number, _)| *number == slot) else {
                return Ok(Some(None));
            };
            if shown.iter().any(|(_, place)| place.parent == Some(slot)) {
                return Ok(None);
            }
            table.hide(slot)?;
            fs.remove(slot);
            let elsewhere = shown.iter().any(|(number, other)| *number != slot && other.layer == *layer);
            Ok(Some((!elsewhere).then_some(*layer)))
        });
        match removed.await? {
            Some(Some(layer)) => self.cache.remove(&layer).await?,
            Some(None) => {}
            None => return Ok(false),
        }
        Ok(true)
    }

    /// The layers in these slots, each once.
    pub fn layers(&self, slots: &[SlotNumber]) -> Vec<Arc<Layer>> {
        let mut seen = HashSet::new();
        let placed = slots.iter().filter_map(|slot| self.fs.slot(*slot));
        placed.map(|placed| placed.layer().clone()).filter(|layer| seen.insert(*layer.digest())).collect()
    }

    /// Side by side, but each after the one that it lies over. If that is not there, neither can be what lies over it.
    /// Nothing is fetched: containers wait for those that are here.
    async fn restore(&self, mut shown: Vec<(SlotNumber, Place)>) {
        shown.retain(|(_, place)| self.cache.holds(&place.layer));
        while !shown.is_empty() {
            let lies =
                |(_, place): &(_, Place)| place.parent.is_none_or(|parent| self.fs.slot(parent).is_some());
            let (ready, rest): (Vec<_>, Vec<_>) = shown.into_iter().partition(lies);
            if ready.is_empty() {
                return;
            }
            let all = stream::iter(ready);
            all.for_each_concurrent(OPENED, |(number, place)| self.restore_one(number, place)).await;
            shown = rest;
        }
    }

    async fn restore_one(&self, number: SlotNumber, Place { parent, layer, index }: Place) {
        let below = parent.and_then(|parent| self.fs.slot(parent));
        let placed = async {
            let layer = self.cache.known_layer(&layer).await?;
            if layer.index_id() != index {
                return Err(CacheError::OtherIndex(*layer.digest()).into());
            }
            blocking(|| place(below, layer)).await
        };
        match placed.await {
            Ok(placed) => drop(self.fs.add(number, placed)),
            Err(error) => tracing::warn!(%layer, %error, "a layer cannot be shown again"),
        }
    }
}

/// Blocks. Trees are put over each other while other images may come and go: that takes as long as they are large.
fn show(
    table: &Mutex<SlotTable>,
    fs: &LazyFs,
    layers: Vec<Arc<Layer>>,
) -> Result<Vec<SlotNumber>, ImageError> {
    let mut numbers = Vec::new();
    let mut below: Option<(SlotNumber, Arc<PlacedLayer>)> = None;
    for layer in layers {
        let parent = below.as_ref().map(|(number, _)| *number);
        let at = Place { parent, layer: *layer.digest(), index: layer.index_id() };
        let shown = || lock(table).find(&at).and_then(|number| fs.slot(number));
        let placed = match shown() {
            Some(placed) => placed,
            None => place(below.map(|(_, placed)| placed), layer)?,
        };
        let mut table = lock(table);
        let number = table.show(at)?;
        // Somebody else may have been faster: one number is one tree.
        let placed = fs.slot(number).unwrap_or(placed);
        if !fs.add(number, placed.clone()) {
            return Err(ImageError::Full);
        }
        drop(table);
        numbers.push(number);
        below = Some((number, placed));
    }
    Ok(numbers)
}

fn place(parent: Option<Arc<PlacedLayer>>, layer: Arc<Layer>) -> Result<Arc<PlacedLayer>, ImageError> {
    let digest = *layer.digest();
    let placed = PlacedLayer::over(parent, layer);
    placed.map(Arc::new).map_err(|error| ImageError::Chain { layer: digest, error })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| CacheError::ShutDown)?
}
