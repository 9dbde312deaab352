//! An index goes with its layer.

use shoal_store::{BlobName, Loss, Store, StoreError};
use tokio::sync::broadcast::error::RecvError;
use tracing::warn;

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
    use shoal_store::{IndexFact, StoreConfig};

    use super::*;
    use crate::testing::put;

    #[tokio::test(flavor = "multi_thread")]
    async fn an_index_goes_when_its_layer_goes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(StoreConfig { reserve_bytes: 0, ..StoreConfig::new(dir.path()) }).unwrap();
        let layer = put(&store, &b"a layer".to_vec().into());
        let index = put(&store, &b"its index".to_vec().into());
        let built = IndexFact::Built { file: index.digest, claim: Vec::new() };
        store.put_index(&layer.digest, &built).unwrap();
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
}
