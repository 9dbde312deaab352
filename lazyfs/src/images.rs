//! Images on the filesystem: each of their layers in its place, under a number that stays.

mod table;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::try_join_all;
use shoal_proto::Digest;
use tokio::sync::Mutex;

use crate::chain::{PlacedLayer, TooMuchWork};
use crate::fs::{LazyFs, SlotNumber};
use crate::source::LayerSource;
use crate::span_cache::{CacheError, Layer, Patience, SpanCache};
use table::SlotTable;

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
    table: Mutex<SlotTable>,
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
        let cache = SpanCache::open(folder, source, patience)?;
        let path = folder.join("slots");
        let table = SlotTable::open(&path).map_err(|error| ImageError::Table { path, error })?;
        let images = Self { cache, table: Mutex::new(table), fs: Arc::default() };
        images.restore().await;
        Ok(images)
    }

    pub fn fs(&self) -> &Arc<LazyFs> {
        &self.fs
    }

    pub fn cache(&self) -> &Arc<SpanCache> {
        &self.cache
    }

    /// Shows an image's layers, lowest first. Each is shown over those before it.
    pub async fn add(&self, layers: &[Digest]) -> Result<Vec<SlotNumber>, ImageError> {
        // Indexes first, all at once: an image whose indexes are slow to come holds up no other one.
        let opened = try_join_all(layers.iter().map(|layer| self.cache.layer(layer))).await?;
        let mut table = self.table.lock().await;
        let mut numbers = Vec::new();
        let mut parent: Option<(SlotNumber, Arc<PlacedLayer>)> = None;
        for (layer, opened) in layers.iter().zip(opened) {
            let below = parent.as_ref().map(|(number, _)| *number);
            let known = table.find(below, layer);
            let placed = match known.and_then(|number| self.fs.slot(number)) {
                Some(placed) => placed,
                None => place(parent.as_ref().map(|(_, placed)| placed.clone()), opened).await?,
            };
            let number = match known {
                Some(number) => number,
                None => table.add(below, layer)?,
            };
            if !self.fs.add(number, placed.clone()) {
                return Err(ImageError::Full);
            }
            numbers.push(number);
            parent = Some((number, placed));
        }
        Ok(numbers)
    }

    /// Shows a layer in its place no more; nobody may use it there. False if a layer is shown over it.
    pub async fn remove(&self, slot: SlotNumber) -> Result<bool, ImageError> {
        let table = self.table.lock().await;
        let shown_over =
            |(number, parent, _): (_, _, _)| parent == Some(slot) && self.fs.slot(number).is_some();
        let unused = !table.iter().any(shown_over);
        if unused {
            self.fs.remove(slot);
        }
        Ok(unused)
    }

    /// The layers in these slots, each once.
    pub fn layers(&self, slots: &[SlotNumber]) -> Vec<Arc<Layer>> {
        let mut seen = HashSet::new();
        let placed = slots.iter().filter_map(|slot| self.fs.slot(*slot));
        placed.map(|placed| placed.layer().clone()).filter(|layer| seen.insert(*layer.digest())).collect()
    }

    async fn restore(&self) {
        let table = self.table.lock().await;
        for (number, parent, layer) in table.iter() {
            let below = parent.map(|parent| self.fs.slot(parent));
            // A parent that is not there: neither can be what lies over it.
            let Ok(below) = below.map_or(Ok(None), |below| below.map(Some).ok_or(())) else { continue };
            if !self.cache.holds(layer) {
                continue;
            }
            let placed = async { place(below, self.cache.layer(layer).await?).await };
            match placed.await {
                Ok(placed) => drop(self.fs.add(number, placed)),
                Err(error) => tracing::warn!(%layer, %error, "a layer cannot be shown again"),
            }
        }
    }
}

async fn place(parent: Option<Arc<PlacedLayer>>, layer: Arc<Layer>) -> Result<Arc<PlacedLayer>, ImageError> {
    let digest = *layer.digest();
    let placed = tokio::task::spawn_blocking(move || PlacedLayer::over(parent, layer));
    let placed = placed.await.map_err(|_| CacheError::ShutDown)?;
    Ok(Arc::new(placed.map_err(|error| ImageError::Chain { layer: digest, error })?))
}
