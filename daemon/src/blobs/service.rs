//! Opens blobs: what is complete is read from the store, anything else joins its swarm, once per node.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shoal_origin::Origins;
use shoal_proto::message::{Held, Proof};
use shoal_proto::{ChunkLayout, ChunkSet, Digest, LayoutError, RegistryName, SignedEntry};
use shoal_store::{Partial, ReadError, Store, StoreError};
use shoal_transport::RateLimit;
use tokio::sync::Semaphore;

use super::active::{ActiveBlob, Failure, Phase, Wanted};
use super::blocks::BlockBudget;
use super::through;
use crate::images::is_shared;
use crate::metrics::Metrics;
use crate::swarm::{Input, Joining, SwarmHandle, complete_proof};

/// A download that nobody reads goes on for this long: a client that was cut comes back with a Range, and
/// a client that fetched a manifest fetches its layers soon.
pub(super) const LINGER: Duration = Duration::from_secs(60);
/// A download that began with its manifest goes on for this long before anybody reads it: who only looks at a
/// manifest should not cost the layers, and what was fetched is kept.
const PREFETCH: Duration = Duration::from_secs(15);
/// How often downloads are checked for whether anybody wants them.
const SWEEP: Duration = Duration::from_secs(5);
/// Blobs on their way at once; an image has some hundred at most.
const MAX_ACTIVE: usize = 4096;
/// Blobs of one manifest that are fetched before anybody reads them: whoever lists more, to fill other nodes' places
/// and caches, has them fetched as they are read.
const MAX_PREFETCH: usize = 256;

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
    #[error("{0} came from a private repository of another registry meanwhile: ask again")]
    Private(Digest),
}

/// Where a blob's bytes are.
#[derive(Clone, Debug)]
pub(crate) enum Opened {
    /// All on this node's disk.
    Local,
    /// On their way.
    Active(Arc<ActiveBlob>),
}

/// What it takes to pass through what the store cannot take.
#[derive(Clone, Debug)]
pub(crate) struct PassThrough {
    pub(super) origins: Origins,
    /// What may be received from origins, as for all else.
    pub(super) limit: Arc<RateLimit>,
    pub(super) places: Arc<Semaphore>,
}

impl PassThrough {
    pub(crate) fn new(origins: Origins, limit: Arc<RateLimit>) -> Self {
        Self { origins, limit, places: Arc::new(Semaphore::new(through::AT_ONCE)) }
    }
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
    through: PassThrough,
    active: Mutex<HashMap<Key, Arc<ActiveBlob>>>,
    next_reader: AtomicU64,
}

impl BlobService {
    pub(crate) fn new(
        store: Store,
        swarm: SwarmHandle,
        budget: BlockBudget,
        metrics: Metrics,
        through: PassThrough,
    ) -> Self {
        let (active, next_reader) = (Mutex::default(), AtomicU64::new(0));
        let inner = Inner { store, swarm, budget, metrics, through, active, next_reader };
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

    pub(super) fn through(&self) -> &PassThrough {
        &self.inner.through
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
            // It may have come since the caller's right to it was found out.
            check_shared(self.store(), &wanted.digest, &wanted.registry)?;
            return Ok(Opened::Local);
        }
        let mut opened = self.join(vec![wanted], LINGER).await?;
        Ok(opened.pop().map_or(Opened::Local, Opened::Active))
    }

    /// Begins to fetch what is not here, all in one message to the tracker, before anybody reads it.
    pub(crate) async fn prefetch(&self, wanted: Vec<Wanted>) -> Result<(), OpenError> {
        let missing = wanted.into_iter().filter(|blob| !self.is_local(&blob.digest, blob.size));
        self.join(missing.take(MAX_PREFETCH).collect(), PREFETCH).await.map(drop)
    }

    async fn join(&self, wanted: Vec<Wanted>, linger: Duration) -> Result<Vec<Arc<ActiveBlob>>, OpenError> {
        let mut blobs = Vec::with_capacity(wanted.len());
        let mut new = Vec::new();
        let mut again = Vec::new();
        let mut refused = None;
        for wanted in wanted {
            let layout = ChunkLayout::new(wanted.size);
            let key = (wanted.digest, wanted.size, wanted.registry.clone());
            let mut active = self.active();
            let known = active.get(&key).filter(|blob| blob.phase() == Phase::Fetching).cloned();
            let blob = match (known, layout) {
                (Some(blob), _) => {
                    blob.set_context(wanted.context);
                    again.push(blob.clone());
                    blob
                }
                (None, Err(error)) => {
                    refused = Some(error.into());
                    continue;
                }
                (None, Ok(_)) if active.len() >= MAX_ACTIVE => {
                    refused = Some(OpenError::TooMany);
                    continue;
                }
                (None, Ok(layout)) => {
                    let blob = Arc::new(ActiveBlob::new(wanted, layout));
                    active.insert(key, blob.clone());
                    new.push(blob.clone());
                    blob
                }
            };
            blob.linger(linger);
            blobs.push(blob);
        }
        self.hand_over(new, again).await;
        refused.map_or(Ok(blobs), Err)
    }

    /// Tells the driver. In a task of its own: what began must reach it even if who asked goes away.
    async fn hand_over(&self, new: Vec<Arc<ActiveBlob>>, again: Vec<Arc<ActiveBlob>>) {
        if new.is_empty() && again.is_empty() {
            return;
        }
        let this = self.clone();
        let telling = tokio::spawn(async move {
            for blob in again {
                this.inner.swarm.send(Input::Access(blob)).await;
            }
            let store = this.inner.store.clone();
            let prepare = move || new.into_iter().filter_map(|blob| prepare_or_fail(&store, blob)).collect();
            // Looking into the store blocks, so not on the runtime's own threads.
            let joining: Vec<Joining> = tokio::task::spawn_blocking(prepare).await.unwrap_or_default();
            if !joining.is_empty() {
                this.inner.swarm.send(Input::Join(joining)).await;
            }
        });
        // It fails only when the runtime goes down, and the request with it.
        let _ = telling.await;
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

/// What came from a private repository is for callers of its registry, and of those that have shown that they have it.
fn check_shared(store: &Store, digest: &Digest, registry: &RegistryName) -> Result<(), OpenError> {
    match store.complete(digest) {
        Some(here) if !is_shared(store, &here.swarm, registry) => Err(OpenError::Private(*digest)),
        _ => Ok(()),
    }
}

fn prepare_or_fail(store: &Store, blob: Arc<ActiveBlob>) -> Option<Joining> {
    prepare(store, &blob).unwrap_or_else(|error| {
        blob.end(Phase::Failed(Failure::Store(error.to_string().into())));
        None
    })
}

/// What the store has of the blob; `None` where that is all.
fn prepare(store: &Store, blob: &Arc<ActiveBlob>) -> Result<Option<Joining>, OpenError> {
    if !store.has_room_for(&blob.swarm()) {
        // Else it would throw out what is cached, fill the disk, and fail in the end.
        return Err(StoreError::Full { need: blob.layout.size() }.into());
    }
    let partial: Partial = match store.begin(&blob.swarm()) {
        Ok(partial) => partial,
        // Complete, perhaps with chunks that were found corrupt: those are repaired through the swarm.
        Err(StoreError::AlreadyComplete(digest)) => return repairing(store, blob, &digest),
        Err(error) => return Err(error.into()),
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
    let proof = Some(Proof::Entries(entries));
    Ok(Some(Joining { blob: blob.clone(), held: Held::Some(held), proof }))
}

fn repairing(store: &Store, blob: &Arc<ActiveBlob>, digest: &Digest) -> Result<Option<Joining>, OpenError> {
    check_shared(store, digest, &blob.registry)?;
    let (held, proof) = match complete_proof(store, digest)? {
        // Another registry's swarm brought it just now.
        Some((Held::Complete, _)) => {
            blob.end(Phase::Complete);
            return Ok(None);
        }
        Some((held, proof)) => (held, Some(proof)),
        None => (Held::Some(ChunkSet::empty(blob.layout.count())), None),
    };
    blob.set_repair();
    if let Held::Some(held) = &held {
        blob.set_available(held.clone());
    }
    Ok(Some(Joining { blob: blob.clone(), held, proof }))
}
