use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use shoal_proto::Digest;
use tokio::sync::{Mutex, MutexGuard};

use super::SnapshotError;
use super::api::Mount;
use super::filter::Filters;
use super::folders::{self, Folders, Usage};
use super::mounts::Parts;
use super::rows::{Change, Kind, Rows, Snapshot};
use crate::layer_folders::LayerFolders;

pub(super) type Labels = BTreeMap<String, String>;

/// How long the process before this one may take to end. Killed, it still holds its files until each of its threads
/// has run once more.
const PREDECESSOR_ENDS: Duration = Duration::from_secs(20);

/// Where a snapshotter keeps and shows what it has. Paths without colons and commas: they go to overlayfs.
#[derive(Clone, Debug)]
pub struct Places {
    /// A folder of its own, for what outlasts a restart of the machine.
    pub state: PathBuf,
    /// Where the filesystem is mounted. Short, for overlayfs takes one page of names.
    pub fuse: PathBuf,
    /// Where layers are mounted on EROFS; as short.
    pub erofs: PathBuf,
}

/// Which snapshots there are, what they lie over, and their folders. Knows that some are shown layers, and not how.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Held while changes are synced: who waits for it gives its thread back meanwhile.
    rows: Mutex<Rows>,
    folders: Folders,
    /// Last: it lets the next process open all of the above.
    _alone: File,
}

impl Ledger {
    /// Waits 20 s for another process to leave the state.
    pub(super) async fn open(state: &Path) -> Result<Self, OpenError> {
        let alone = alone(state).await?;
        let folders = Folders::open(state.join("s"))?;
        let rows = Rows::open(&state.join("snapshots.redb")).map_err(SnapshotError::from)?;
        Ok(Self { rows: Mutex::new(rows), folders, _alone: alone })
    }

    pub(super) async fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().await
    }

    /// Outside of the runtime's own threads.
    pub(super) fn rows_blocking(&self) -> MutexGuard<'_, Rows> {
        self.rows.blocking_lock()
    }

    pub(super) async fn stat(&self, name: &str) -> Result<Snapshot, SnapshotError> {
        self.rows().await.get(name).cloned().ok_or_else(|| SnapshotError::NotFound(name.to_owned()))
    }

    pub(super) async fn list(&self, filters: &Filters) -> Vec<(String, Snapshot)> {
        let rows = self.rows().await;
        let matching = rows.iter().filter(|(name, snapshot)| filters.matches(name, snapshot));
        matching.map(|(name, snapshot)| (name.clone(), snapshot.clone())).collect()
    }

    /// Makes a snapshot that is not committed, and says how it is mounted.
    pub(super) async fn create(
        self: &Arc<Self>,
        layers: Arc<LayerFolders>,
        kind: Kind,
        key: String,
        parent: String,
        labels: Labels,
    ) -> Result<Vec<Mount>, SnapshotError> {
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
                let below = rows.get(&snapshot.parent).map(|below| own.place(below, &layers));
                own.folders.make(id, below.as_deref())?;
            }
            rows.apply(vec![change]).inspect_err(|_| own.folders.remove(id))?;
            Ok(own.mounts_of(&rows, &snapshot, &layers))
        })
        .await
    }

    /// What is only looked at needs nothing of its own, unless there is nothing else.
    fn has_folder(&self, snapshot: &Snapshot) -> bool {
        snapshot.kind() == Kind::Active || snapshot.parent.is_empty()
    }

    /// Where the files of a committed snapshot are.
    fn place(&self, snapshot: &Snapshot, layers: &LayerFolders) -> PathBuf {
        match &snapshot.layer {
            Some(layer) => layers.folder(layer.slot()),
            None => self.folders.upper(snapshot.id),
        }
    }

    pub(super) fn mounts_of(&self, rows: &Rows, snapshot: &Snapshot, layers: &LayerFolders) -> Vec<Mount> {
        let lower = rows.chain(&snapshot.parent).map(|(_, below)| self.place(below, layers)).collect();
        let own = || (self.folders.upper(snapshot.id), self.folders.work(snapshot.id));
        let parts = Parts {
            upper: self.has_folder(snapshot).then(own),
            lower,
            read_only: snapshot.kind() == Kind::View,
        };
        parts.mounts(&layers.empty(), |path| layers.is_layer(path))
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

    pub(super) fn folder_usage(&self, id: u64) -> Usage {
        self.folders.usage(id)
    }

    /// Removes folders that have no row.
    pub(super) async fn sweep(self: &Arc<Self>) -> Result<(), SnapshotError> {
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
    #[error(transparent)]
    Folders(#[from] crate::layer_folders::FoldersError),
}

pub(super) fn has_place(rows: &Rows, parent: &str) -> bool {
    parent.is_empty() || rows.get(parent).is_some()
}

pub(super) fn new(name: String, snapshot: Snapshot) -> Result<Change, SnapshotError> {
    if name.is_empty() { Err(SnapshotError::NoName) } else { Ok((name, Some(snapshot))) }
}

/// The chain id in a name that containerd gives: `namespace/number/chain id`. It has compared the DiffID of what it
/// unpacked there.
fn called(name: &str) -> Option<Digest> {
    name.rsplit('/').next()?.parse().ok()
}

pub(super) async fn blocking<T: Send + 'static>(
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
