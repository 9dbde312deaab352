//! Builds the indexes of layers that this node has whole: one at a time, on a thread that others come before.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use shoal_proto::{ChunkIndex, Digest, Keypair, NodeId, SwarmId};
use shoal_store::{BlobName, IndexFact, Store};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::build::{Builder, IndexError};
use crate::metrics::Metrics;

/// Layers that wait; those beyond are found when they are asked for again.
const WAITING: usize = 4096;
/// Above that of everything that somebody waits for: indexes are for later.
const NICE: i32 = 10;
/// So long after its building failed a layer is not read again, however often somebody asks: a full disk stays full for
/// a while, and each attempt reads all of the layer.
const FAILED: Duration = Duration::from_secs(60);

/// Tells the thread what there is to do; cheap to clone. It ends when the last one is dropped, or the node stops.
#[derive(Clone, Debug)]
pub(crate) struct Indexer {
    layers: Option<SyncSender<SwarmId>>,
    pending: Pending,
}

/// Layers that wait, or are read now; and when the building failed of those where it did lately.
#[derive(Clone, Debug, Default)]
struct Pending(Arc<Mutex<HashMap<Digest, Option<Instant>>>>);

impl Pending {
    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Option<Instant>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if it is known, or is to rest.
    fn begin(&self, layer: Digest) -> bool {
        let mut pending = self.lock();
        pending.retain(|_, failed| failed.is_none_or(|failed| failed.elapsed() < FAILED));
        let new = pending.len() < 2 * WAITING && !pending.contains_key(&layer);
        if new {
            pending.insert(layer, None);
        }
        new
    }

    fn failed(&self, layer: Digest) {
        self.lock().insert(layer, Some(Instant::now()));
    }

    fn end(&self, layer: &Digest) {
        self.lock().remove(layer);
    }
}

impl Indexer {
    /// Builds nothing.
    pub(crate) fn off() -> Self {
        Self { layers: None, pending: Pending::default() }
    }

    pub(super) fn new() -> (Self, Receiver<SwarmId>) {
        let (sender, layers) = sync_channel(WAITING);
        (Self { layers: Some(sender), pending: Pending::default() }, layers)
    }

    /// Starts the thread. It begins with what was left over from before.
    pub(crate) fn start(
        store: Store,
        key: Keypair,
        me: NodeId,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let (indexer, layers) = Self::new();
        let pending = indexer.pending.clone();
        let work = Work { builder: Builder { store, key, me }, metrics, stop, pending };
        thread::Builder::new().name("lazy-index".into()).spawn(move || work.run(&layers))?;
        Ok(indexer)
    }

    /// A blob is here as a whole, and its digest matched.
    pub(crate) fn is_whole(&self, blob: &SwarmId) {
        if let Some(layers) = &self.layers
            && self.pending.begin(blob.digest)
            && layers.try_send(blob.clone()).is_err()
        {
            self.pending.end(&blob.digest);
            debug!(digest = %blob.digest, "too many layers wait for their index");
        }
    }

    /// Somebody asks for the index of a layer, and there is none: it was evicted, or could not be built.
    pub(super) fn is_missed(&self, store: &Store, layer: &Digest) {
        if let Some(whole) = store.complete(layer) {
            self.is_whole(&whole.swarm);
        }
    }
}

struct Work {
    builder: Builder,
    metrics: Metrics,
    stop: CancellationToken,
    pending: Pending,
}

impl Work {
    fn run(&self, layers: &Receiver<SwarmId>) {
        // Of this thread only, as Linux has it.
        if let Err(error) = rustix::process::setpriority_process(None, NICE) {
            debug!(%error, "indexes are built at ordinary priority");
        }
        let store = &self.builder.store;
        for blob in store.list() {
            if let BlobName::Complete(digest) = blob.name
                && let Some(complete) = store.complete(&digest)
            {
                self.index(&complete.swarm);
            }
        }
        while let Ok(layer) = layers.recv() {
            self.index(&layer);
        }
    }

    fn index(&self, layer: &SwarmId) {
        if self.try_index(layer) {
            self.pending.end(&layer.digest);
        } else {
            self.pending.failed(layer.digest);
        }
    }

    /// False if it failed for a reason that may pass.
    fn try_index(&self, layer: &SwarmId) -> bool {
        let store = &self.builder.store;
        let known = store.index(&layer.digest).is_ok_and(|fact| fact.is_some());
        if known || self.stop.is_cancelled() || !self.is_layer(layer) {
            return true;
        }
        match self.builder.build(layer, &|| self.stop.is_cancelled()) {
            Ok(claim) => {
                self.metrics.indexes_built.inc();
                info!(layer = %layer.digest, index_bytes = claim.file_len, diff_id = %claim.diff_id, "layer indexed");
            }
            Err(IndexError::Layer(error)) => {
                self.metrics.indexes_declined.inc();
                info!(layer = %layer.digest, %error, "the layer cannot be read lazily");
                let declined = IndexFact::Declined { reason: error.to_string() };
                if let Err(error) = store.put_index(&layer.digest, &declined) {
                    warn!(%error, "cannot note why a layer has no index");
                }
            }
            Err(IndexError::Stopping) => {}
            Err(error) => {
                warn!(layer = %layer.digest, %error, "no index for now");
                return false;
            }
        }
        true
    }

    /// Whether it looks like a layer: compressed, or a tar. A cached blob may as well be a manifest or a configuration.
    fn is_layer(&self, blob: &SwarmId) -> bool {
        let reader = self.builder.store.look_at(&blob.digest);
        let first = reader.and_then(|mut reader| reader.read_block(ChunkIndex(0), 0));
        first.is_ok_and(|bytes| looks_like_layer(bytes.get()))
    }
}

fn looks_like_layer(bytes: &[u8]) -> bool {
    /// Where a tar's first header says that it is one.
    const USTAR: std::ops::Range<usize> = 257..262;
    matches!(bytes, [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
        || bytes.get(USTAR) == Some(b"ustar")
}

#[cfg(test)]
mod tests {
    use shoal_lazyfs::index::{HEADER_LEN, Head, Header};
    use shoal_proto::SignedIndexClaim;
    use shoal_store::StoreConfig;

    use super::*;
    use crate::testing::put;

    fn work(dir: &std::path::Path) -> Work {
        let store = Store::open(StoreConfig { reserve_bytes: 0, ..StoreConfig::new(dir) }).unwrap();
        let key = Keypair::ed25519_from_bytes([5; 32]).unwrap();
        let me = NodeId::of(&key.public()).unwrap();
        let builder = Builder { store, key, me };
        let (metrics, pending) = (Metrics::default(), Pending::default());
        Work { builder, metrics, stop: CancellationToken::new(), pending }
    }

    fn tar() -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(5);
        header.set_mode(0o644);
        tar.append_data(&mut header, "hello", &b"world"[..]).unwrap();
        tar.into_inner().unwrap()
    }

    #[test]
    fn an_index_is_built_signed_and_kept_as_a_blob() {
        let dir = tempfile::tempdir().unwrap();
        let work = work(dir.path());
        let store = &work.builder.store;
        let layer = put(store, &tar().into());
        work.index(&layer);
        let Some(IndexFact::Built { file, claim }) = store.index(&layer.digest).unwrap() else {
            panic!("no index")
        };
        let signed = SignedIndexClaim::from_bytes(layer.digest, layer.size, &claim).unwrap();
        signed.check().unwrap();
        assert_eq!((signed.claim.diff_id, signed.claim.file), (layer.digest, file));
        let bytes = store.reader(&file).unwrap().read(0..signed.claim.file_len).unwrap().into_inner();
        let header = Header::decode(bytes[..HEADER_LEN].try_into().unwrap()).unwrap();
        let head = Head::decode(&bytes[..usize::try_from(header.head_len()).unwrap()]).unwrap();
        assert_eq!((head.id.0, head.file_len()), (signed.claim.index, signed.claim.file_len));
        assert_eq!(work.metrics.indexes_built.get(), 1);
        work.index(&layer);
        assert_eq!(work.metrics.indexes_built.get(), 1, "it is known already");
    }

    #[test]
    fn an_index_that_was_evicted_is_built_again_for_who_misses_it() {
        let dir = tempfile::tempdir().unwrap();
        let work = work(dir.path());
        let store = &work.builder.store;
        let (indexer, layers) = Indexer::new();
        let layer = put(store, &tar().into());
        work.index(&layer);
        let Some(IndexFact::Built { file, .. }) = store.index(&layer.digest).unwrap() else {
            panic!("no index")
        };
        store.remove(&file).unwrap();
        for _ in 0..2 {
            indexer.is_missed(store, &layer.digest);
        }
        work.index(&layers.try_recv().unwrap());
        assert!(layers.try_recv().is_err(), "once, however many ask");
        assert!(matches!(store.index(&layer.digest).unwrap(), Some(IndexFact::Built { .. })));
        indexer.is_missed(store, &Digest::sha256([7; 32]));
        assert!(layers.try_recv().is_err(), "of what is not here there is none");
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_rests_before_it_is_tried_again() {
        let (indexer, layers) = Indexer::new();
        let dir = tempfile::tempdir().unwrap();
        let layer = put(&work(dir.path()).builder.store, &tar().into());
        indexer.is_whole(&layer);
        layers.try_recv().unwrap();
        indexer.pending.failed(layer.digest);
        indexer.is_whole(&layer);
        assert!(layers.try_recv().is_err(), "it would fail again");
        tokio::time::advance(FAILED).await;
        indexer.is_whole(&layer);
        assert_eq!(layers.try_recv(), Ok(layer.clone()));
        // Nothing remains of what went well.
        indexer.pending.end(&layer.digest);
        indexer.is_whole(&layer);
        assert_eq!(layers.try_recv(), Ok(layer));
    }

    #[test]
    fn why_a_layer_has_none_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let work = work(dir.path());
        let store = &work.builder.store;
        let layer = put(store, &vec![0x1f, 0x8b, 8, 0, 0, 0].into());
        work.index(&layer);
        assert!(matches!(store.index(&layer.digest).unwrap(), Some(IndexFact::Declined { .. })));
        let manifest = put(store, &b"{}".to_vec().into());
        work.index(&manifest);
        assert_eq!(store.index(&manifest.digest).unwrap(), None);
    }

    #[test]
    fn layers_are_told_from_manifests_and_configurations() {
        let mut tar = [0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for layer in
            [&[0x1f, 0x8b, 8, 0][..], &[0x28, 0xb5, 0x2f, 0xfd, 1], &[0x5e, 0x2a, 0x4d, 0x18, 1], &tar]
        {
            assert!(looks_like_layer(layer));
        }
        for other in [&b"{\"schemaVersion\":2}"[..], b"SHOALIX1", b"", &[0; 512]] {
            assert!(!looks_like_layer(other));
        }
    }
}
