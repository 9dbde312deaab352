use shoal_store::{BlobName, Loss, Store, StoreError};

use crate::blobs::{Blob, CHUNK, open_with_capacity};

fn holds(store: &Store, blobs: &[&Blob]) -> Vec<bool> {
    blobs.iter().map(|blob| store.complete(&blob.swarm.digest).is_some()).collect()
}

#[test]
fn the_least_recently_used_goes_first_over_restarts_too() {
    let dir = tempfile::tempdir().unwrap();
    let blobs: Vec<Blob> = (0..5).map(|seed| Blob::new(seed, 2 * CHUNK)).collect();
    let [a, b, c, d, e] = &blobs[..] else { unreachable!() };
    {
        let store = open_with_capacity(dir.path(), 6 * CHUNK);
        for blob in [a, b, c] {
            blob.put(&store);
        }
        drop(store.reader(&a.swarm.digest).unwrap());
    }
    let store = open_with_capacity(dir.path(), 6 * CHUNK);
    let mut losses = store.losses();
    d.put(&store);
    assert_eq!(holds(&store, &[a, b, c, d]), [true, false, true, true]);
    assert_eq!(losses.try_recv().unwrap(), Loss::Evicted(BlobName::Complete(b.swarm.digest)));
    e.put(&store);
    assert_eq!(holds(&store, &[a, b, c, d, e]), [true, false, false, true, true]);
    assert_eq!(store.statistics().used_bytes, 6 * CHUNK as u64);
    assert_eq!(store.evict(4 * CHUNK as u64), [a, d].map(|blob| BlobName::Complete(blob.swarm.digest)));
    assert_eq!(std::fs::read_dir(dir.path().join("blobs")).unwrap().count(), 1);
}

#[test]
fn what_is_pinned_read_or_written_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (pinned, read, written, next) =
        (Blob::new(1, CHUNK), Blob::new(2, CHUNK), Blob::new(3, 2 * CHUNK), Blob::new(4, CHUNK));
    {
        let store = open_with_capacity(dir.path(), 3 * CHUNK);
        pinned.put(&store);
        store.pin(&pinned.swarm.digest).unwrap();
        read.put(&store);
    }
    let store = open_with_capacity(dir.path(), 3 * CHUNK);
    let mut reader = store.reader(&read.swarm.digest).unwrap();
    let partial = store.begin(&written.swarm).unwrap();
    store.write_chunk(&written.swarm, written.chunk(0), b"").unwrap();
    assert!(matches!(store.write_chunk(&written.swarm, written.chunk(1), b""), Err(StoreError::Full { .. })));
    let full = store.write_chunk(
        &{
            store.begin(&next.swarm).unwrap();
            next.swarm.clone()
        },
        next.chunk(0),
        b"",
    );
    assert!(matches!(full, Err(StoreError::Full { .. })), "{full:?}");
    assert_eq!(store.statistics().used_bytes, 3 * CHUNK as u64);
    read.read_all(&mut reader).unwrap();
    pinned.read_all(&mut store.reader(&pinned.swarm.digest).unwrap()).unwrap();
    written.read_chunk(&mut store.partial_reader(&written.swarm).unwrap(), 0).unwrap();

    drop(reader);
    store.write_chunk(&written.swarm, written.chunk(1), b"").unwrap();
    assert_eq!(holds(&store, &[&pinned, &read]), [true, false]);
    store.unpin(&pinned.swarm.digest).unwrap();
    drop(partial);
    next.put(&store);
    assert_eq!(holds(&store, &[&pinned, &next]), [false, true]);
}

#[test]
fn many_writers_at_once_stay_within_the_bound() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_with_capacity(dir.path(), 5 * CHUNK);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..6 {
                    let blob = Blob::new(seed * 100 + round, CHUNK + 10_000);
                    let _partial = store.begin(&blob.swarm).unwrap();
                    for index in 0..2 {
                        match store.write_chunk(&blob.swarm, blob.chunk(index), b"") {
                            Ok(()) | Err(StoreError::Full { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                        assert!(store.statistics().used_bytes <= 5 * CHUNK as u64);
                    }
                }
            });
        }
    });
    let on_disk: u64 = std::fs::read_dir(dir.path().join("blobs"))
        .unwrap()
        .map(|entry| std::os::unix::fs::MetadataExt::blocks(&entry.unwrap().metadata().unwrap()) * 512)
        .sum();
    assert!(on_disk <= 5 * CHUNK as u64, "{on_disk} bytes on disk");
}
