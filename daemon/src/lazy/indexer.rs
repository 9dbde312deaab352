//! Builds the indexes of layers that this node has whole: one at a time, on a thread that others come before.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use shoal_proto::{ChunkIndex, Keypair, NodeId, SwarmId};
use shoal_store::{BlobName, IndexFact, Loss, Store, StoreError};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::build::{Builder, IndexError};
use crate::metrics::Metrics;

/// Layers that wait; those beyond are found at the next start.
const WAITING: usize = 4096;
/// Above that of everything that somebody waits for: indexes are for later.
const NICE: i32 = 10;

/// Tells the thread what there is to do; cheap to clone. It ends when the last one is dropped, or the node stops.
#[derive(Clone, Debug)]
pub(crate) struct Indexer(Option<SyncSender<SwarmId>>);

impl Indexer {
    /// Builds nothing.
    pub(crate) fn off() -> Self {
        Self(None)
    }

    /// Starts the thread. It begins with what was left over from before.
    pub(crate) fn start(
        store: Store,
        key: Keypair,
        me: NodeId,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let (sender, layers) = sync_channel(WAITING);
        let work = Work { builder: Builder { store, key, me }, metrics, stop };
        thread::Builder::new().name("lazy-index".into()).spawn(move || work.run(&layers))?;
        Ok(Self(Some(sender)))
    }

    /// A blob is here as a whole, and its digest matched.
    pub(crate) fn is_whole(&self, blob: &SwarmId) {
        if let Some(sender) = &self.0
            && sender.try_send(blob.clone()).is_err()
        {
            debug!(digest = %blob.digest, "too many layers wait for their index; this one waits for the next start");
        }
    }
}

struct Work {
    builder: Builder,
    metrics: Metrics,
    stop: CancellationToken,
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
        let store = &self.builder.store;
        let known = store.index(&layer.digest).is_ok_and(|fact| fact.is_some());
        if known || self.stop.is_cancelled() || !self.is_layer(layer) {
            return;
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
            }
        }
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

/// Removes the indexes of layers that are here no more: those that went before the start, and those that go.
pub(crate) async fn follow_layers(store: Store) {
    let mut losses = store.losses();
    sweep(store.clone()).await;
    loop {
        match losses.recv().await {
            Ok(Loss::Evicted(BlobName::Complete(layer))) => {
                let store = store.clone();
                // It fails only when the node stops.
                let _ = tokio::task::spawn_blocking(move || report(store.remove_index(&layer))).await;
            }
            Ok(_) => {}
            Err(RecvError::Lagged(_)) => sweep(store.clone()).await,
            Err(RecvError::Closed) => return,
        }
    }
}

async fn sweep(store: Store) {
    let work = move || {
        let layers = store.indexed_layers().unwrap_or_else(|error| {
            warn!(%error, "cannot read which layers have an index");
            Vec::new()
        });
        for layer in layers.iter().filter(|layer| store.complete(layer).is_none()) {
            report(store.remove_index(layer));
        }
    };
    // It fails only when the node stops.
    let _ = tokio::task::spawn_blocking(work).await;
}

fn report(removed: Result<(), StoreError>) {
    if let Err(error) = removed {
        warn!(%error, "cannot remove the index of a layer that is gone");
    }
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
        Work { builder, metrics: Metrics::default(), stop: CancellationToken::new() }
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

    #[tokio::test(flavor = "multi_thread")]
    async fn an_index_goes_when_its_layer_goes() {
        let dir = tempfile::tempdir().unwrap();
        let work = work(dir.path());
        let store = work.builder.store.clone();
        let layer = put(&store, &tar().into());
        work.index(&layer);
        let mut losses = store.losses();
        let following = tokio::spawn(follow_layers(store.clone()));
        // All of it, least recently used first.
        store.evict(u64::MAX / 2);
        while losses.recv().await.unwrap() != Loss::Evicted(BlobName::Complete(layer.digest)) {}
        while !store.indexed_layers().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        following.abort();
        assert_eq!(store.statistics().complete_blobs, 0);
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
