use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use shoal_proto::Digest;
use tokio::sync::{Mutex, MutexGuard, RwLock};

use super::SnapshotError;
use super::api::Mount;
use super::filter::Filters;
use super::folders::{self, Folders, Usage};
use super::lazy::{LazyLayers, TARGET, shown};
use super::mounts::Parts;
use super::policy::Policy;
use super::rows::{Change, Kind, Rows, ShownLayer, Snapshot};
use crate::fs::EMPTY;
use crate::images::Images;
use crate::link::Link;

type Labels = BTreeMap<String, String>;

/// How often the node is told what the filesystem does: as often as metrics are looked at.
const REPORTS: Duration = Duration::from_secs(5);

/// How long the process before this one may take to end. Killed, it still holds its files until each of its threads
/// has run once more.
const PREDECESSOR_ENDS: Duration = Duration::from_secs(20);

/// Where a snapshotter keeps and shows what it has. Paths without colons and commas: they go to overlayfs.
#[derive(Clone, Debug)]
pub struct Places {
    /// A folder of its own, for what outlasts a restart of the machine.
    pub state: PathBuf,
    /// Where the filesystem is mounted. Short, for overlayfs takes one page of names.
    pub mount: PathBuf,
}

/// All snapshots of a node.
#[derive(Debug)]
pub struct Snapshotter {
    places: Places,
    /// Held while changes are synced: who waits for it gives its thread back meanwhile.
    rows: Mutex<Rows>,
    folders: Folders,
    lazy: LazyLayers,
    /// Read by who shows a layer until its row is written, so that it is not taken for one that nobody needs.
    taking: RwLock<()>,
    /// Last: it lets the next process open all of the above.
    _alone: File,
}

impl Snapshotter {
    /// Opens the state, removes what a crash left over, and shows again what was shown. `link` leads to the node.
    /// Waits 20 s for another process to leave the state. Call it in a tokio runtime.
    pub async fn open(places: Places, link: Link, policy: Policy) -> Result<Arc<Self>, OpenError> {
        let alone = alone(&places.state).await?;
        let folders = Folders::open(places.state.join("s"))?;
        let rows = Rows::open(&places.state.join("snapshots.redb")).map_err(SnapshotError::from)?;
        let all = rows.iter().map(|(name, snapshot)| (name.as_str(), snapshot));
        let lazy = LazyLayers::open(&places.state.join("cache"), link, policy, shown(all)).await?;
        let snapshotter = Arc::new(Self {
            places,
            rows: Mutex::new(rows),
            folders,
            lazy,
            taking: RwLock::default(),
            _alone: alone,
        });
        snapshotter.cleanup().await?;
        Ok(snapshotter)
    }

    pub fn images(&self) -> &Images {
        self.lazy.images()
    }

    /// To be called once the filesystem is served: shows what could not be shown from this disk, and lets layers
    /// become whole on which containers run.
    pub async fn resume(self: &Arc<Self>) {
        let missing: Vec<_> = {
            let rows = self.rows().await;
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
            let mut rows = own.rows_blocking();
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
        let rows = self.rows().await;
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
                let rows = own.rows_blocking();
                own.lazy.report(shown(rows.iter().map(|(name, snapshot)| (name.as_str(), snapshot))));
            });
            if told.await.is_err() {
                return;
            }
        }
    }

    pub(super) async fn stat(&self, name: &str) -> Result<Snapshot, SnapshotError> {
        self.rows().await.get(name).cloned().ok_or_else(|| SnapshotError::NotFound(name.to_owned()))
    }

    pub(super) async fn list(&self, filters: &Filters) -> Vec<(String, Snapshot)> {
        let rows = self.rows().await;
        let matching = rows.iter().filter(|(name, snapshot)| filters.matches(name, snapshot));
        matching.map(|(name, snapshot)| (name.clone(), snapshot.clone())).collect()
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
            self.lazy.used(shown(self.rows().await.chain(&parent)));
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
        let snapshot = self.stat(key).await?;
        if snapshot.kind() == Kind::Committed {
            return Err(SnapshotError::NotActive(key.to_owned()));
        }
        self.show_missing(&snapshot.parent).await?;
        Ok(self.mounts_of(&*self.rows().await, &snapshot))
    }

    pub(super) async fn commit(
        self: &Arc<Self>,
        name: String,
        key: String,
        labels: Labels,
    ) -> Result<(), SnapshotError> {
        let own = self.clone();
        blocking(move || {
            let active = own.rows_blocking().get(&key).cloned();
            let active = active.ok_or_else(|| SnapshotError::NotFound(key.clone()))?;
            if active.kind() != Kind::Active {
                return Err(SnapshotError::NotActive(key));
            }
            let Usage { size, files } = own.folders.usage(active.id);
            own.folders.sync()?;
            let chain_id = called(&name).map(|chain| chain.to_string()).unwrap_or_default();
            let id = active.id;
            let committed = Snapshot {
                id,
                size,
                files,
                chain_id,
                ..Snapshot::new(Kind::Committed, active.parent, labels)
            };
            let mut rows = own.rows_blocking();
            if rows.get(&name).is_some() {
                return Err(SnapshotError::Exists(name));
            }
            // Somebody else may have removed or committed it meanwhile.
            if rows.get(&key).is_none_or(|found| found.id != id) {
                return Err(SnapshotError::NotFound(key));
            }
            Ok(rows.apply(vec![(key, None), new(name, committed)?])?)
        })
        .await
    }

    pub(super) async fn remove(self: &Arc<Self>, name: String) -> Result<(), SnapshotError> {
        let own = self.clone();
        blocking(move || {
            let mut rows = own.rows_blocking();
            let found = rows.get(&name).ok_or_else(|| SnapshotError::NotFound(name.clone()))?;
            let id = found.layer.is_none().then_some(found.id);
            if rows.has_children(&name) {
                return Err(SnapshotError::HasChildren(name));
            }
            rows.apply(vec![(name, None)])?;
            drop(rows);
            if let Some(id) = id {
                own.folders.remove(id);
            }
            Ok(())
        })
        .await
    }

    /// Only labels can be changed: all of them, or those that are named.
    pub(super) async fn update(
        self: &Arc<Self>,
        name: String,
        labels: Labels,
        fields: Vec<String>,
    ) -> Result<Snapshot, SnapshotError> {
        let own = self.clone();
        blocking(move || {
            let mut rows = own.rows_blocking();
            let mut snapshot =
                rows.get(&name).cloned().ok_or_else(|| SnapshotError::NotFound(name.clone()))?;
            if fields.is_empty() {
                snapshot.labels.clone_from(&labels);
            }
            for field in fields {
                match field.strip_prefix("labels.") {
                    Some(label) => {
                        let value = labels.get(label).cloned().unwrap_or_default();
                        snapshot.labels.insert(label.to_owned(), value);
                    }
                    None if field == "labels" => snapshot.labels.clone_from(&labels),
                    None => return Err(SnapshotError::Immutable(field)),
                }
            }
            snapshot.labels.retain(|_, value| !value.is_empty());
            snapshot.updated = Some(SystemTime::now().into());
            rows.apply(vec![(name, Some(snapshot.clone()))])?;
            Ok(snapshot)
        })
        .await
    }

    /// Without what lies below it.
    pub(super) async fn usage(self: &Arc<Self>, name: String) -> Result<Usage, SnapshotError> {
        let snapshot = self.stat(&name).await?;
        let own = self.clone();
        blocking(move || {
            Ok(match (&snapshot.layer, snapshot.kind()) {
                (Some(layer), _) => own.lazy.usage(layer),
                (None, Kind::Committed) => Usage { size: snapshot.size, files: snapshot.files },
                (None, _) => own.folders.usage(snapshot.id),
            })
        })
        .await
    }

    /// Removes folders that have no row, and shows no more what no row needs.
    pub(super) async fn cleanup(self: &Arc<Self>) -> Result<(), SnapshotError> {
        {
            let _no_takes = self.taking.write().await;
            let needed: Vec<_> = {
                let rows = self.rows().await;
                rows.iter().filter_map(|(_, row)| row.layer.clone()).flat_map(|layer| layer.layers).collect()
            };
            self.lazy.release(&needed).await;
        }
        // Those too that were filled together with what is gone.
        self.fill().await;
        let own = self.clone();
        blocking(move || {
            let unknown = {
                // Held, so that no folder is made whose row comes later; not while files are removed, for all of
                // containerd's calls wait for it. Numbers are never used again.
                let rows = own.rows_blocking();
                let known: HashSet<u64> = rows.iter().map(|(_, snapshot)| snapshot.id).collect();
                own.folders.unknown(&known)?
            };
            unknown.iter().for_each(|folder| folders::remove(folder));
            Ok(())
        })
        .await
    }

    async fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().await
    }

    /// Outside of the runtime's own threads.
    fn rows_blocking(&self) -> MutexGuard<'_, Rows> {
        self.rows.blocking_lock()
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
        if let Some(found) = self.rows().await.get(&target) {
            return Ok(found.parent == parent && found.kind() == Kind::Committed);
        }
        let _no_cleanup = self.taking.read().await;
        let taken = match self.lazy.take(below, labels).await {
            Ok(taken) => taken,
            Err(super::lazy::Declined::Before) => return Ok(false),
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
            let mut rows = own.rows_blocking();
            // Somebody else may have been faster; or removed what lies below.
            if rows.get(&target).is_none() && has_place(&rows, &snapshot.parent) {
                let id = rows.new_id();
                rows.apply(vec![new(target.clone(), Snapshot { id, ..snapshot.clone() })?])?;
            }
            Ok(rows.get(&target).is_some_and(|found| found.parent == snapshot.parent))
        })
        .await
    }

    /// The chain id of a parent.
    async fn below(&self, parent: &str) -> Result<Option<Digest>, super::lazy::Declined> {
        if parent.is_empty() {
            return Ok(None);
        }
        let chain = self.rows().await.get(parent).and_then(Snapshot::chain);
        chain.map(Some).ok_or(super::lazy::Declined::Below)
    }

    async fn create(
        self: &Arc<Self>,
        kind: Kind,
        key: String,
        parent: String,
        labels: Labels,
    ) -> Result<Vec<Mount>, SnapshotError> {
        self.show_missing(&parent).await?;
        let own = self.clone();
        blocking(move || {
            let mut rows = own.rows_blocking();
            if rows.get(&key).is_some() {
                return Err(SnapshotError::Exists(key));
            }
            match rows.get(&parent) {
                Some(found) if found.kind() != Kind::Committed => {
                    return Err(SnapshotError::OpenParent(parent));
                }
                None if !parent.is_empty() => return Err(SnapshotError::NotFound(parent)),
                _ => {}
            }
            let id = rows.new_id();
            let snapshot = Snapshot { id, ..Snapshot::new(kind, parent, labels) };
            let change = new(key, snapshot.clone())?;
            if own.has_folder(&snapshot) {
                let below = rows.get(&snapshot.parent).map(|below| own.place(below));
                own.folders.make(id, below.as_deref())?;
            }
            rows.apply(vec![change]).inspect_err(|_| own.folders.remove(id))?;
            Ok(own.mounts_of(&rows, &snapshot))
        })
        .await
    }

    /// What is only looked at needs nothing of its own, unless there is nothing else.
    fn has_folder(&self, snapshot: &Snapshot) -> bool {
        snapshot.kind() == Kind::Active || snapshot.parent.is_empty()
    }

    /// Where the files of a committed snapshot are.
    fn place(&self, snapshot: &Snapshot) -> PathBuf {
        match &snapshot.layer {
            Some(layer) => self.places.mount.join(layer.slot().0.to_string()),
            None => self.folders.upper(snapshot.id),
        }
    }

    fn mounts_of(&self, rows: &Rows, snapshot: &Snapshot) -> Vec<Mount> {
        let lower = rows.chain(&snapshot.parent).map(|(_, below)| self.place(below)).collect();
        let own = || (self.folders.upper(snapshot.id), self.folders.work(snapshot.id));
        let parts = Parts {
            upper: self.has_folder(snapshot).then(own),
            lower,
            read_only: snapshot.kind() == Kind::View,
        };
        let mount: &Path = &self.places.mount;
        parts.mounts(&mount.join(EMPTY), |path| path.starts_with(mount))
    }

    /// A layer that could not be shown after a restart may be found by now.
    async fn show_missing(self: &Arc<Self>, name: &str) -> Result<(), SnapshotError> {
        let missing: Vec<_> = shown(self.rows().await.chain(name))
            .filter(|layer| !self.lazy.is_shown(layer))
            .cloned()
            .collect();
        for layer in missing {
            self.show(layer).await?;
        }
        Ok(())
    }
}

/// Why there is no snapshotter.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another process uses {}; is shoal fs running twice?", .0.display())]
    InUse(PathBuf),
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    #[error(transparent)]
    Images(#[from] crate::images::ImageError),
}

fn has_place(rows: &Rows, parent: &str) -> bool {
    parent.is_empty() || rows.get(parent).is_some()
}

fn new(name: String, snapshot: Snapshot) -> Result<Change, SnapshotError> {
    if name.is_empty() { Err(SnapshotError::NoName) } else { Ok((name, Some(snapshot))) }
}

/// The chain id in a name that containerd gives: `namespace/number/chain id`. It has compared the DiffID of what it
/// unpacked there.
fn called(name: &str) -> Option<Digest> {
    name.rsplit('/').next()?.parse().ok()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SnapshotError> + Send + 'static,
) -> Result<T, SnapshotError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| SnapshotError::ShutDown)?
}

/// The only one that uses the state, for as long as the file is open.
async fn alone(state: &Path) -> Result<File, OpenError> {
    let path = state.join("lock");
    let failed = |error| SnapshotError::Folder { path: path.clone(), error };
    let lock = File::create(&path).map_err(failed)?;
    let locked = tokio::task::spawn_blocking(move || {
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).map(|()| lock)
    });
    match tokio::time::timeout(PREDECESSOR_ENDS, locked).await {
        Ok(Ok(locked)) => Ok(locked.map_err(|errno| failed(errno.into()))?),
        Ok(Err(_)) => Err(SnapshotError::ShutDown.into()),
        Err(_) => Err(OpenError::InUse(state.to_owned())),
    }
}
