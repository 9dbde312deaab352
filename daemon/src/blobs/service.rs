//! Opens blobs: what is complete is read from the store, anything else joins its swarm, once per node.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_proto::message::{Held, Proof};
use shoal_proto::{ChunkSet, Digest, LayoutError, RegistryName, SignedEntry};
use shoal_store::{Partial, ReadError, Store, StoreError};

use super::active::{ActiveBlob, Phase, Wanted};
use super::blocks::BlockBudget;
use crate::metrics::Metrics;
use crate::swarm::{Input, Joining, SwarmHandle, complete_proof};

/// A download that nobody reads goes on for this long: a client that was cut comes back with a Range, and
/// a client that fetched a manifest fetches its layers soon.
const LINGER: Duration = Duration::from_secs(60);
/// How often downloads are checked for whether anybody wants them.
const SWEEP: Duration = Duration::from_secs(5);
/// Blobs on their way at once; an image has some hundred at most.
const MAX_ACTIVE: usize = 4096;

/// Why a blob cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error(transparent)]
    TooLarge(#[from] LayoutError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("{MAX_ACTIVE} blobs are being fetched already")]
    TooMany,
}

/// Where a blob's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Opened {
    /// All on this node's disk.
    Local,
    /// On their way.
    Active(Arc<ActiveBlob>),
}

type Key = (Digest, u64, RegistryName);

/// Opens blobs. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct BlobService {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    swarm: SwarmHandle,
    budget: BlockBudget,
    metrics: Metrics,
    active: Mutex<HashMap<Key, Arc<ActiveBlob>>>,
    next_reader: AtomicU64,
}

impl BlobService {
    pub(crate) fn new(store: Store, swarm: SwarmHandle, budget: BlockBudget, metrics: Metrics) -> Self {
        let inner =
            Inner { store, swarm, budget, metrics, active: Mutex::default(), next_reader: AtomicU64::new(0) };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn swarm(&self) -> &SwarmHandle {
        &self.inner.swarm
    }

    pub(crate) fn budget(&self) -> &BlockBudget {
        &self.inner.budget
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    pub(crate) fn next_reader(&self) -> u64 {
        self.inner.next_reader.fetch_add(1, Ordering::Relaxed)
    }

    fn active(&self) -> MutexGuard<'_, HashMap<Key, Arc<ActiveBlob>>> {
        self.inner.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all of it is on this node's disk.
    pub(crate) fn is_local(&self, digest: &Digest, size: u64) -> bool {
        let found = self.inner.store.complete(digest);
        found.is_some_and(|blob| blob.swarm.size == size && blob.held.is_full())
    }

    /// Opens a blob for reading; if it is not here, its download begins.
    pub(crate) async fn open(&self, wanted: Wanted) -> Result<Opened, OpenError> {
        if self.is_local(&wanted.digest, wanted.size) {
            return Ok(Opened::Local);
        }
        let mut opened = self.join(vec![wanted]).await?;
        Ok(opened.pop().map_or(Opened::Local, Opened::Active))
    }

    /// Begins to fetch what is not here, all in one message to the tracker, before anybody reads it.
    pub(crate) async fn prefetch(&self, wanted: Vec<Wanted>) -> Result<(), OpenError> {
        let missing = wanted.into_iter().filter(|blob| !self.is_local(&blob.digest, blob.size)).collect();
        self.join(missing).await.map(drop)
    }

    async fn join(&self, wanted: Vec<Wanted>) -> Result<Vec<Arc<ActiveBlob>>, OpenError> {
        let mut blobs = Vec::with_capacity(wanted.len());
        let mut new = Vec::new();
        for wanted in wanted {
            let key = (wanted.digest, wanted.size, wanted.registry.clone());
            let mut active = self.active();
            let known = active.get(&key).filter(|blob| !matches!(blob.phase(), Phase::Failed(_))).cloned();
            let blob = match known {
                Some(blob) => {
                    blob.set_context(wanted.context);
                    blob
                }
                None if active.len() >= MAX_ACTIVE => return Err(OpenError::TooMany),
                None => {
                    let blob = Arc::new(ActiveBlob::new(wanted)?);
                    active.insert(key, blob.clone());
                    new.push(blob.clone());
                    blob
                }
            };
            blob.linger(LINGER);
            blobs.push(blob);
        }
        let joining = self.prepare(new).await?;
        if !joining.is_empty() {
            self.inner.swarm.send(Input::Join(joining)).await;
        }
        Ok(blobs)
    }

    /// Looks up what the store has of new blobs. Blocking, so not on the runtime's own threads.
    async fn prepare(&self, blobs: Vec<Arc<ActiveBlob>>) -> Result<Vec<Joining>, OpenError> {
        let store = self.inner.store.clone();
        let prepare = move || blobs.into_iter().map(|blob| prepare(&store, blob)).collect();
        match tokio::task::spawn_blocking(prepare).await {
            Ok(joining) => joining,
            // The runtime is going down, and the request with it.
            Err(_) => Ok(Vec::new()),
        }
    }

    /// Ends downloads that nobody wants and forgets those that ended, for as long as the node runs.
    pub(crate) async fn sweep(self) {
        let mut ticks = tokio::time::interval(SWEEP);
        loop {
            ticks.tick().await;
            let mut gone = Vec::new();
            self.active().retain(|_, blob| match blob.phase() {
                Phase::Fetching if blob.is_wanted() => true,
                Phase::Fetching => {
                    gone.push(blob.clone());
                    false
                }
                Phase::Complete | Phase::Failed(_) => false,
            });
            for blob in gone {
                self.inner.swarm.send(Input::Leave(blob)).await;
            }
        }
    }
}

fn prepare(store: &Store, blob: Arc<ActiveBlob>) -> Result<Joining, OpenError> {
    let swarm = blob.swarm();
    let partial: Partial = match store.begin(&swarm) {
        Ok(partial) => partial,
        // Complete, with chunks that were found corrupt: they are repaired through the swarm.
        Err(StoreError::AlreadyComplete(digest)) => return repairing(store, blob, &digest),
        Err(error) => {
            blob.set_phase(Phase::Failed(super::Failure::Store(error.to_string().into())));
            return Err(error.into());
        }
    };
    let chunks = partial.chunks()?;
    let mut entries = Vec::with_capacity(chunks.len());
    let mut kept = HashMap::new();
    for chunk in chunks {
        match SignedEntry::from_bytes(&chunk.evidence) {
            Ok(signed) => entries.push(signed),
            // An attested map vouched for it; the swarm brings one again.
            Err(_) => {
                kept.insert(chunk.index.0, chunk.value);
            }
        }
    }
    blob.set_kept(kept);
    let held = partial.held();
    blob.set_available(held.clone());
    blob.keep(partial);
    Ok(Joining { blob, held: Held::Some(held), proof: Some(Proof::Entries(entries)) })
}

fn repairing(store: &Store, blob: Arc<ActiveBlob>, digest: &Digest) -> Result<Joining, OpenError> {
    let (held, proof) = match complete_proof(store, digest)? {
        Some((held, proof)) => (held, Some(proof)),
        None => (Held::Some(ChunkSet::empty(blob.layout.count())), None),
    };
    blob.set_repair();
    if let Held::Some(held) = &held {
        blob.set_available(held.clone());
    }
    Ok(Joining { blob, held, proof })
}
