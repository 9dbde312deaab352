use shoal_proto::{ChunkIndex, ChunkLayout, VerifiedChunk};
use shoal_store::{FinishError, MAX_EVIDENCE, ReadError, StoreError};

use crate::blobs::{Blob, CHUNK, flip, open};

#[test]
fn wrong_content_stays_partial_over_restarts_until_it_is_discarded() {
    let dir = tempfile::tempdir().unwrap();
    for len in [0, 5, 2 * CHUNK + 5] {
        let mut blob = Blob::new(1, len);
        blob.swarm.digest = Blob::new(2, 77).swarm.digest;
        let store = open(dir.path());
        store.begin(&blob.swarm).unwrap();
        blob.write_all(&store);
        for _ in 0..2 {
            let finish = store.finish(&blob.swarm, |_| panic!("must not be attested"));
            assert!(matches!(finish, Err(FinishError::DigestMismatch { .. })), "{len} bytes");
        }
        drop(store);
        let store = open(dir.path());
        assert_eq!(store.complete(&blob.swarm.digest), None);
        // Nothing durable says that an empty blob was begun.
        if len > 0 {
            store.discard(&blob.swarm).unwrap();
        }
        assert!(matches!(
            store.write_chunk(&blob.swarm, Blob::new(1, 5).chunk(0), b""),
            Err(StoreError::NotFound(_))
        ));
        assert_eq!(store.statistics().used_bytes, 0);
    }
    drop(open(dir.path()));
    assert_eq!(std::fs::read_dir(dir.path().join("blobs")).unwrap().count(), 0, "files are left");
}

#[test]
fn a_chunk_never_changes_its_value() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (blob, other) = (Blob::new(1, 2 * CHUNK), Blob::new(2, 2 * CHUNK));
    store.begin(&blob.swarm).unwrap();
    for _ in 0..2 {
        store.write_chunk(&blob.swarm, blob.chunk(0), b"").unwrap();
        let conflict = store.write_chunk(&blob.swarm, other.chunk(0), b"");
        assert!(matches!(conflict, Err(StoreError::Conflict { index: ChunkIndex(0), .. })));
        store.flush().unwrap();
    }
    blob.read_chunk(&mut store.partial_reader(&blob.swarm).unwrap(), 0).unwrap();
}

#[test]
fn a_chunk_verified_for_another_size_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let blob = Blob::new(1, 2 * CHUNK);
    store.begin(&blob.swarm).unwrap();
    let one = ChunkLayout::new(CHUNK as u64).unwrap();
    let chunk = VerifiedChunk::from_origin(&one, ChunkIndex(0), blob.content.slice(..CHUNK)).unwrap();
    assert!(matches!(store.write_chunk(&blob.swarm, chunk, b""), Err(StoreError::OtherLayout { .. })));
    let beyond = Blob::new(1, 3 * CHUNK).chunk(2);
    assert!(matches!(store.write_chunk(&blob.swarm, beyond, b""), Err(StoreError::OtherLayout { .. })));
    let long = store.write_chunk(&blob.swarm, blob.chunk(0), &[0; MAX_EVIDENCE + 1]);
    assert!(matches!(long, Err(StoreError::EvidenceTooLong { .. })));
}

#[test]
fn a_fault_of_this_disk_does_not_look_like_a_wrong_digest() {
    let dir = tempfile::tempdir().unwrap();
    let blob = Blob::new(1, 3 * CHUNK);
    let store = open(dir.path());
    store.begin(&blob.swarm).unwrap();
    store.write_chunk(&blob.swarm, blob.chunk(1), b"").unwrap();
    drop(store);
    flip(dir.path(), CHUNK as u64 + 500_000);
    let store = open(dir.path());
    let partial = store.begin(&blob.swarm).unwrap();
    store.write_chunk(&blob.swarm, blob.chunk(0), b"").unwrap();
    store.write_chunk(&blob.swarm, blob.chunk(2), b"").unwrap();
    let finish = store.finish(&blob.swarm, |_| vec![]);
    assert!(matches!(finish, Err(FinishError::Read(_) | FinishError::Missing { .. })), "{finish:?}");
    assert!(!partial.held().contains(ChunkIndex(1)));
    store.write_chunk(&blob.swarm, blob.chunk(1), b"").unwrap();
    store.finish(&blob.swarm, |_| vec![]).unwrap();
    blob.read_all(&mut store.reader(&blob.swarm.digest).unwrap()).unwrap();
}

#[test]
fn a_chunk_replaced_after_it_was_hashed_is_hashed_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (blob, other) = (Blob::new(1, 2 * CHUNK), Blob::new(2, 2 * CHUNK));
    store.begin(&blob.swarm).unwrap();
    store.write_chunk(&blob.swarm, blob.chunk(0), b"").unwrap();
    // Hashes what is there.
    assert!(matches!(store.finish(&blob.swarm, |_| vec![]), Err(FinishError::Missing { .. })));
    flip(dir.path(), 77);
    let mut reader = store.partial_reader(&blob.swarm).unwrap();
    assert!(matches!(blob.read_chunk(&mut reader, 0), Err(ReadError::Corrupt { .. })));
    store.write_chunk(&blob.swarm, other.chunk(0), b"").unwrap();
    store.write_chunk(&blob.swarm, blob.chunk(1), b"").unwrap();
    let finish = store.finish(&blob.swarm, |_| panic!("must not be attested"));
    assert!(matches!(finish, Err(FinishError::DigestMismatch { .. })), "{finish:?}");
}
