use std::sync::Arc;
use std::time::Duration;

use shoal_proto::Digest;
use tokio::sync::RwLock;

use super::SnapshotError;
use super::api::Mount;
use super::folders::Usage;
use super::lazy::{Declined, LazyLayers, TARGET, shown};
use super::ledger::{Labels, Ledger, OpenError, Places, blocking, has_place, new};
use super::policy::Policy;
use super::rows::{Kind, ShownLayer, Snapshot};
use crate::erofs::Mounter;
use crate::images::Images;
use crate::link::Link;

/// How often the node is told what the filesystem does: as often as metrics are looked at.
const REPORTS: Duration = Duration::from_secs(5);

/// All snapshots of a node: those of its [`Ledger`], and how layers among them are shown.
#[derive(Debug)]
pub struct Snapshotter {
    lazy: LazyLayers,
    /// Read by who shows a layer until its row is written, so that it is not taken for one that nobody needs.
    taking: RwLock<()>,
    /// Last: it lets the next process open all of the above.
    ledger: Arc<Ledger>,
}

fn borrows(snapshot: &Snapshot) -> bool {
    snapshot.layer.as_ref().is_some_and(ShownLayer::borrows)
}

impl Snapshotter {
    /// Opens the state, removes what a crash left over, and shows again what was shown. `link` leads to the node;
    /// without `mounter` layers are on FUSE alone. Waits 20 s for another process to leave the state. Call it in a
    /// tokio runtime.
    pub async fn open(
        places: Places,
        link: Link,
        policy: Policy,
        mounter: Option<Arc<dyn Mounter>>,
    ) -> Result<Arc<Self>, OpenError> {
        let ledger = Arc::new(Ledger::open(&places.state).await?);
        let lazy = {
            let rows = ledger.rows().await;
            let all = rows.iter().map(|(name, snapshot)| (name.as_str(), snapshot));
            LazyLayers::open(places, link, policy, mounter, shown(all)).await?
        };
        let snapshotter = Arc::new(Self { lazy, taking: RwLock::default(), ledger });
        snapshotter.cleanup().await?;
        Ok(snapshotter)
    }

    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    pub fn images(&self) -> &Images {
        self.lazy.images()
    }

    /// To be called once the filesystem is served: shows what could not be shown from this disk, and lets layers
    /// become whole on which containers run.
    pub async fn resume(self: &Arc<Self>) {
        let missing: Vec<_> = {
            let rows = self.ledger.rows().await;
            let all = rows.iter().map(|(name, snapshot)| (name.as_str(), snapshot));
            shown(all).filter(|layer| !self.lazy.is_shown(layer)).cloned().collect()
        };
        for layer in missing {
            if let Err(error) = self.show(layer).await {
                tracing::warn!(%error, "a layer cannot be shown again");
            }
        }
        self.fill().await;
    }

    /// Shows again what is not shown now, and notes where, if that is another place than before.
    async fn show(self: &Arc<Self>, layer: ShownLayer) -> Result<(), SnapshotError> {
        // Until its row is written a cleanup would take it for one that nobody needs.
        let _no_cleanup = self.taking.read().await;
        let shown = self.lazy.show(&layer).await.map_err(|error| {
            let digest = layer.layers.last().map(|known| known.digest.clone());
            tracing::debug!(%error, "a layer cannot be shown");
            SnapshotError::NotShown { layer: digest.unwrap_or_default(), why: error.to_string() }
        })?;
        if shown == layer {
            return Ok(());
        }
        let own = self.clone();
        blocking(move || {
            let mut rows = own.ledger.rows_blocking();
            let moved = rows.iter().filter(|(_, snapshot)| snapshot.layer.as_ref() == Some(&layer));
            let moved = moved.map(|(name, snapshot)| {
                (name.clone(), Some(Snapshot { layer: Some(shown.clone()), ..snapshot.clone() }))
            });
            let moved = moved.collect();
            Ok(rows.apply(moved)?)
        })
        .await
    }

    /// Lets layers become whole on which containers run, or which are to be whole in any case.
    async fn fill(&self) {
        let rows = self.ledger.rows().await;
        self.lazy.fill_eager(shown(rows.iter().map(|(name, snapshot)| (name.as_str(), snapshot))));
        for (name, _) in rows.iter().filter(|(_, snapshot)| snapshot.kind() == Kind::Active) {
            self.lazy.used(shown(rows.chain(name)));
        }
    }

    /// Tells the node again and again what the filesystem does, for as long as it is polled.
    pub async fn report(self: Arc<Self>) {
        let mut tick = tokio::time::interval(REPORTS);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let own = self.clone();
            let told = tokio::task::spawn_blocking(move || {
                let rows = own.ledger.rows_blocking();
                own.lazy.report(shown(rows.iter().map(|(name, snapshot)| (name.as_str(), snapshot))));
            });
            if told.await.is_err() {
                return;
            }
        }
    }

    /// An active snapshot; or, if containerd is about to unpack a layer that can be shown, that layer, committed, and
    /// the error which says that it is there.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        key: String,
        parent: String,
        labels: Labels,
    ) -> Result<Vec<Mount>, SnapshotError> {
        let is_layer = labels.contains_key(TARGET);
        if is_layer && self.take(&key, &parent, &labels).await? {
            return Err(SnapshotError::Exists(key));
        }
        let mounts = self.create(Kind::Active, key, parent.clone(), labels).await?;
        if !is_layer {
            self.lazy.used(shown(self.ledger.rows().await.chain(&parent)));
        }
        Ok(mounts)
    }

    pub(super) async fn view(
        self: &Arc<Self>,
        key: String,
        parent: String,
        labels: Labels,
    ) -> Result<Vec<Mount>, SnapshotError> {
        self.create(Kind::View, key, parent, labels).await
    }

    pub(super) async fn mounts(self: &Arc<Self>, key: &str) -> Result<Vec<Mount>, SnapshotError> {
        let snapshot = self.ledger.stat(key).await?;
        if snapshot.kind() == Kind::Committed {
            return Err(SnapshotError::NotActive(key.to_owned()));
        }
        self.show_missing(&snapshot.parent).await?;
        Ok(self.ledger.mounts_of(&*self.ledger.rows().await, &snapshot, self.lazy.folders()))
    }

    /// Without what lies below it.
    pub(super) async fn usage(self: &Arc<Self>, name: String) -> Result<Usage, SnapshotError> {
        let snapshot = self.ledger.stat(&name).await?;
        let own = self.clone();
        blocking(move || {
            Ok(match (&snapshot.layer, snapshot.kind()) {
                (Some(layer), _) => own.lazy.usage(layer),
                (None, Kind::Committed) => Usage { size: snapshot.size, files: snapshot.files },
                (None, _) => own.ledger.folder_usage(snapshot.id),
            })
        })
        .await
    }

    /// Removes folders that have no row, and shows no more what no row needs.
    pub(super) async fn cleanup(self: &Arc<Self>) -> Result<(), SnapshotError> {
        {
            let _no_takes = self.taking.write().await;
            let needed: Vec<_> = {
                let rows = self.ledger.rows().await;
                rows.iter().filter_map(|(_, row)| row.layer.clone()).flat_map(|layer| layer.layers).collect()
            };
            self.lazy.release(&needed).await;
        }
        // Those too that were filled together with what is gone.
        self.fill().await;
        self.ledger.sweep().await
    }

    async fn create(
        self: &Arc<Self>,
        kind: Kind,
        key: String,
        parent: String,
        labels: Labels,
    ) -> Result<Vec<Mount>, SnapshotError> {
        self.show_missing(&parent).await?;
        self.ledger.create(self.lazy.folders().clone(), kind, key, parent, labels).await
    }

    /// Whether the layer that containerd is about to unpack is there, committed under its chain id.
    async fn take(self: &Arc<Self>, key: &str, parent: &str, labels: &Labels) -> Result<bool, SnapshotError> {
        let target = labels.get(TARGET).cloned().unwrap_or_default();
        let below = match self.below(parent).await {
            Ok(below) => below,
            Err(why) => {
                tracing::debug!(key, %why, "a layer is left to containerd");
                return Ok(false);
            }
        };
        // Even if it is there already: another namespace's pull, by which it came, says nothing of what this one may
        // read, and what is denied to be shown is denied for each image.
        let _no_cleanup = self.taking.read().await;
        let taken = match self.lazy.take(below, labels).await {
            Ok(taken) => taken,
            Err(Declined::Before) => return Ok(false),
            Err(why) => {
                tracing::info!(key, %why, "a layer is left to containerd");
                return Ok(false);
            }
        };
        let snapshot = Snapshot {
            chain_id: taken.chain_id.to_string(),
            layer: Some(taken.layer),
            ..Snapshot::new(Kind::Committed, parent.to_owned(), labels.clone())
        };
        let own = self.clone();
        blocking(move || {
            let mut rows = own.ledger.rows_blocking();
            match rows.get(&target) {
                // Unless somebody removed what lies below.
                None if has_place(&rows, &snapshot.parent) => {
                    let id = rows.new_id();
                    rows.apply(vec![new(target.clone(), Snapshot { id, ..snapshot.clone() })?])?;
                }
                // What anybody may read through one image is not to depend on another one's credentials.
                Some(found) if borrows(found) && !borrows(&snapshot) => {
                    let layer = snapshot.layer.clone();
                    let better = Snapshot { layer, ..found.clone() };
                    rows.apply(vec![(target.clone(), Some(better))])?;
                }
                _ => {}
            }
            let found = rows.get(&target);
            Ok(found.is_some_and(|found| found.parent == snapshot.parent && found.kind() == Kind::Committed))
        })
        .await
    }

    /// The chain id of a parent.
    async fn below(&self, parent: &str) -> Result<Option<Digest>, Declined> {
        if parent.is_empty() {
            return Ok(None);
        }
        let chain = self.ledger.rows().await.get(parent).and_then(Snapshot::chain);
        chain.map(Some).ok_or(Declined::Below)
    }

    /// All layers below are to be mounted. One that could not be shown after a restart may be found by now.
    async fn show_missing(self: &Arc<Self>, name: &str) -> Result<(), SnapshotError> {
        let layers = || async { shown(self.ledger.rows().await.chain(name)).cloned().collect::<Vec<_>>() };
        for layer in layers().await.into_iter().filter(|layer| !self.lazy.is_shown(layer)) {
            self.show(layer).await?;
        }
        // Under other numbers, perhaps.
        self.lazy.folders().mount(layers().await.iter().map(ShownLayer::slot)).await;
        Ok(())
    }
}
