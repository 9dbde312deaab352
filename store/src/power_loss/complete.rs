//! A blob is complete once its digest matched, and durable with the next batch.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use shoal_proto::ChunkIndex;

use super::recorder::{Recorder, open_recorded, rebuild};
use super::sample::{Sample, sample};
use crate::blob::lock;
use crate::{BlobName, Loss, ReadError, Store, StoreConfig, StoreError};

/// Makes a blob complete. While the lock is held nothing of it becomes durable.
fn just_complete(store: &Store) -> Sample {
    let sample = sample(1, 1_000_000);
    store.begin(&sample.swarm).unwrap();
    for chunk in [0, 1] {
        store.write_chunk(&sample.swarm, sample.chunk(chunk), b"").unwrap();
    }
    {
        let _syncing = lock(&store.handle.inner.turn);
        store.finish(&sample.swarm, |_| b"attested".to_vec()).unwrap();
        assert_eq!(store.attestation(&sample.swarm.digest).unwrap().unwrap(), b"attested");
        assert_eq!(sample.claimed(store).unwrap(), [0, 1]);
        store.repair(&sample.swarm.digest, sample.chunk(1)).unwrap();
    }
    sample
}

/// The store as it may be if the power is lost now, and its folder.
fn after_a_loss_of_power(recorder: &Recorder) -> (tempfile::TempDir, Store) {
    let after = tempfile::tempdir().unwrap();
    let log = lock(&recorder.log).clone();
    rebuild(&log, after.path(), &mut fastrand::Rng::with_seed(1));
    let store = Store::open(StoreConfig::new(after.path())).unwrap();
    (after, store)
}

#[test]
fn a_blob_is_complete_before_it_is_durable_and_durable_after_a_flush() {
    let recorder = Arc::new(Recorder::default());
    let dir = tempfile::tempdir().unwrap();
    let store = open_recorded(dir.path(), &recorder);
    let sample = just_complete(&store);
    store.flush().unwrap();
    let (_folder, store) = after_a_loss_of_power(&recorder);
    assert_eq!(store.attestation(&sample.swarm.digest).unwrap().unwrap(), b"attested");
    assert_eq!(sample.claimed(&store).unwrap(), [0, 1]);
}

#[test]
fn a_pin_is_durable_with_the_blob_that_it_keeps() {
    let recorder = Arc::new(Recorder::default());
    let dir = tempfile::tempdir().unwrap();
    let store = open_recorded(dir.path(), &recorder);
    let sample = just_complete(&store);
    store.pin(&sample.swarm.digest).unwrap();
    let (_folder, store) = after_a_loss_of_power(&recorder);
    assert_eq!(sample.claimed(&store).unwrap(), [0, 1]);
    assert!(store.complete(&sample.swarm.digest).is_some());
    assert_eq!(store.evict(u64::MAX), [], "it is pinned");
}

fn flip_the_first_byte(dir: &Path) {
    let file = std::fs::OpenOptions::new().write(true).open(dir.join("blobs/0000000000000000"));
    std::os::unix::fs::FileExt::write_all_at(&file.unwrap(), b"flipped", 0).unwrap();
}

#[test]
fn a_bit_that_flips_before_the_blob_is_durable_costs_one_chunk() {
    let recorder = Arc::new(Recorder::default());
    let dir = tempfile::tempdir().unwrap();
    let store = open_recorded(dir.path(), &recorder);
    let sample = just_complete(&store);
    let mut losses = store.losses();
    flip_the_first_byte(dir.path());
    assert!(matches!(sample.claimed(&store), Err(ReadError::Corrupt { .. })));
    let blob = BlobName::Complete(sample.swarm.digest);
    assert_eq!(losses.try_recv().unwrap(), Loss::Chunks { blob, chunks: vec![ChunkIndex(0)] });
    store.repair(&sample.swarm.digest, sample.chunk(0)).unwrap();
    assert_eq!(sample.claimed(&store).unwrap(), [0, 1]);
}

#[test]
fn a_blob_that_loses_a_chunk_and_cannot_be_made_durable_goes_as_a_whole() {
    for by_a_failed_sync in [true, false] {
        let recorder = Arc::new(Recorder::default());
        let dir = tempfile::tempdir().unwrap();
        let store = open_recorded(dir.path(), &recorder);
        let mut losses = store.losses();
        recorder.index_is_full.store(true, Ordering::Relaxed);
        let sample = just_complete(&store);
        recorder.sync_fails.store(by_a_failed_sync, Ordering::Relaxed);
        let digest = sample.swarm.digest;
        if by_a_failed_sync {
            store.flush().unwrap_or_else(|error| assert!(matches!(error, StoreError::Full { .. })));
        } else {
            flip_the_first_byte(dir.path());
            assert!(matches!(sample.claimed(&store), Err(ReadError::Corrupt { .. })));
        }
        assert_eq!(losses.try_recv().unwrap(), Loss::Evicted(BlobName::Complete(digest)));
        assert!(store.complete(&digest).is_none());
        assert_eq!(store.statistics().used_bytes, 0);
        recorder.index_is_full.store(false, Ordering::Relaxed);
        recorder.sync_fails.store(false, Ordering::Relaxed);
        store.begin(&sample.swarm).unwrap();
        for chunk in [0, 1] {
            store.write_chunk(&sample.swarm, sample.chunk(chunk), b"").unwrap();
        }
        store.finish(&sample.swarm, |_| vec![]).unwrap();
        drop(store);
        let store = open_recorded(dir.path(), &recorder);
        assert!(store.complete(&digest).is_some());
        assert_eq!(sample.claimed(&store).unwrap(), [0, 1]);
    }
}
