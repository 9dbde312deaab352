use shoal_proto::ChunkIndex;
use shoal_store::{BlobName, Loss, ReadError, StoreError};

use crate::blobs::{Blob, CHUNK, flip, open};

#[test]
fn a_flipped_bit_is_never_served_and_only_the_right_chunk_repairs_it() {
    let dir = tempfile::tempdir().unwrap();
    let blob = Blob::new(1, 3 * CHUNK);
    let digest = blob.swarm.digest;
    let store = open(dir.path());
    blob.put(&store);
    store.flush().unwrap();
    flip(dir.path(), CHUNK as u64 + 400_000);
    let mut losses = store.losses();
    let mut reader = store.reader(&digest).unwrap();
    blob.read_chunk(&mut reader, 0).unwrap();
    let read = blob.read_chunk(&mut reader, 1);
    assert!(matches!(read, Err(ReadError::Corrupt { index: ChunkIndex(1), .. })), "{read:?}");
    let lost = Loss::Chunks { blob: BlobName::Complete(digest), chunks: vec![ChunkIndex(1)] };
    assert_eq!(losses.try_recv().unwrap(), lost);
    drop((reader, store));

    let store = open(dir.path());
    let held = store.complete(&digest).unwrap().held;
    assert_eq!(held.missing_from(ChunkIndex(0)).collect::<Vec<_>>(), [ChunkIndex(1)]);
    let mut reader = store.reader(&digest).unwrap();
    assert!(matches!(blob.read_chunk(&mut reader, 1), Err(ReadError::Missing { .. })));
    let other = Blob::new(2, 3 * CHUNK).chunk(1);
    assert!(matches!(store.repair(&digest, other), Err(StoreError::Conflict { .. })));
    store.repair(&digest, blob.chunk(1)).unwrap();
    blob.read_all(&mut reader).unwrap();
    drop((reader, store));

    let store = open(dir.path());
    assert!(store.complete(&digest).unwrap().held.is_full());
    blob.read_all(&mut store.reader(&digest).unwrap()).unwrap();
}

#[test]
fn a_file_cut_short_holds_nothing_past_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let blob = Blob::new(1, 3 * CHUNK);
    blob.put(&open(dir.path()));
    let file = std::fs::read_dir(dir.path().join("blobs")).unwrap().next().unwrap().unwrap().path();
    std::fs::File::options().write(true).open(file).unwrap().set_len(2 * CHUNK as u64 + 1).unwrap();
    let store = open(dir.path());
    assert_eq!(store.complete(&blob.swarm.digest).unwrap().held.count(), 2);
    store.repair(&blob.swarm.digest, blob.chunk(2)).unwrap();
    blob.read_all(&mut store.reader(&blob.swarm.digest).unwrap()).unwrap();
}

#[test]
fn files_and_rows_that_lost_each_other_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, lost) = (Blob::new(1, CHUNK), Blob::new(2, 2 * CHUNK));
    {
        let store = open(dir.path());
        kept.put(&store);
        lost.put(&store);
    }
    let blobs = dir.path().join("blobs");
    let files = std::fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().path());
    std::fs::remove_file(files.max_by_key(|path| path.metadata().unwrap().len()).unwrap()).unwrap();
    std::fs::write(blobs.join("00000000000000ff"), b"of nobody").unwrap();
    for _ in 0..2 {
        let store = open(dir.path());
        assert_eq!(store.list().len(), 1);
        assert_eq!(store.complete(&lost.swarm.digest), None);
        kept.read_all(&mut store.reader(&kept.swarm.digest).unwrap()).unwrap();
        assert_eq!(std::fs::read_dir(&blobs).unwrap().count(), 1);
    }
    let store = open(dir.path());
    lost.put(&store);
    lost.read_all(&mut store.reader(&lost.swarm.digest).unwrap()).unwrap();
}

#[test]
fn an_index_that_is_no_database_is_put_aside() {
    let dir = tempfile::tempdir().unwrap();
    let blob = Blob::new(1, CHUNK);
    blob.put(&open(dir.path()));
    std::fs::write(dir.path().join("index.redb"), vec![7; 100_000]).unwrap();
    let store = open(dir.path());
    assert_eq!(store.list().len(), 0);
    blob.put(&store);
    blob.read_all(&mut store.reader(&blob.swarm.digest).unwrap()).unwrap();
}
