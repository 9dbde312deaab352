//! Disks that refuse.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use shoal_proto::ChunkIndex;

use super::recorder::{Recorder, open_recorded};
use super::sample::sample;
use crate::{Loss, StoreError};

#[test]
fn chunks_whose_sync_failed_are_forgotten_and_can_be_written_again() {
    let recorder = Arc::new(Recorder::default());
    let dir = tempfile::tempdir().unwrap();
    let sample = sample(1, 1_000_000);
    let store = open_recorded(dir.path(), &recorder);
    let mut losses = store.losses();
    let partial = store.begin(&sample.swarm).unwrap();
    recorder.sync_fails.store(true, Ordering::Relaxed);
    store.write_chunk(&sample.swarm, sample.chunk(1), b"").unwrap();
    store.flush().unwrap();
    assert!(partial.held().is_empty());
    assert_eq!(store.statistics().used_bytes, 0);
    let lost = losses.try_recv().unwrap();
    assert_eq!(lost, Loss::Chunks { blob: sample.name(), chunks: vec![ChunkIndex(1)] });
    recorder.sync_fails.store(false, Ordering::Relaxed);
    for chunk in [1, 0] {
        store.write_chunk(&sample.swarm, sample.chunk(chunk), b"").unwrap();
    }
    store.finish(&sample.swarm, |_| vec![]).unwrap();
    assert_eq!(sample.claimed(&store).unwrap(), [0, 1]);
}

#[test]
fn an_index_that_cannot_grow_stops_nobody_from_reading_and_works_again_later() {
    let recorder = Arc::new(Recorder::default());
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (sample(1, 1_000_000), sample(2, 1_000_000));
    let store = open_recorded(dir.path(), &recorder);
    for sample in [&old, &new] {
        store.begin(&sample.swarm).unwrap();
    }
    store.write_chunk(&old.swarm, old.chunk(0), b"").unwrap();
    store.flush().unwrap();
    recorder.index_is_full.store(true, Ordering::Relaxed);
    store.write_chunk(&new.swarm, new.chunk(0), b"").unwrap();
    assert!(matches!(store.flush(), Err(StoreError::Full { .. })));
    assert_eq!(new.claimed(&store).unwrap(), [0], "what is in memory is served");
    recorder.index_is_full.store(false, Ordering::Relaxed);
    store.flush().unwrap();
    assert_eq!(old.claimed(&store).unwrap(), [0]);
    drop(store);
    let store = open_recorded(dir.path(), &recorder);
    assert_eq!(new.claimed(&store).unwrap(), [0]);
}
