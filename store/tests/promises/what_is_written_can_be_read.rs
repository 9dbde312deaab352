use shoal_proto::{Algorithm, BLOCK_SIZE, ChunkIndex};
use shoal_store::{BlobName, FinishError, ReadError, StoreError};

use crate::blobs::{Blob, CHUNK, open};

#[test]
fn a_chunk_can_be_read_at_once_and_a_blob_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let blob = Blob::new(1, 3 * CHUNK + 12_345);
    {
        let store = open(dir.path());
        let partial = store.begin(&blob.swarm).unwrap();
        store.write_chunk(&blob.swarm, blob.chunk(2), b"entry 2").unwrap();
        let mut reader = store.partial_reader(&blob.swarm).unwrap();
        blob.read_chunk(&mut reader, 2).unwrap();
        assert!(matches!(reader.read(0..1), Err(ReadError::Missing { index: ChunkIndex(0), .. })));
        blob.write_all(&store);
        assert!(partial.held().is_full());
        let complete = store.finish(&blob.swarm, |map| map.root().to_vec()).unwrap();
        assert_eq!(complete.swarm, blob.swarm);
        blob.read_all(&mut reader).unwrap();
    }
    let store = open(dir.path());
    blob.read_all(&mut store.reader(&blob.swarm.digest).unwrap()).unwrap();
    let root = blake3_of(&blob);
    assert_eq!(store.map(&blob.swarm.digest).unwrap().root().to_vec(), root);
    assert_eq!(store.attestation(&blob.swarm.digest).unwrap(), Some(root));
    assert!(matches!(store.begin(&blob.swarm), Err(StoreError::AlreadyComplete(_))));
}

fn blake3_of(blob: &Blob) -> Vec<u8> {
    let layout = blob.layout();
    let values = layout.indexes().map(|index| blob.chunk(index.0).value).collect();
    shoal_proto::ChunkMap::new(layout, values).unwrap().root().to_vec()
}

#[test]
fn reads_start_and_end_anywhere_and_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let blob = Blob::new(2, 2 * CHUNK + 300_000);
    let store = open(dir.path());
    blob.put(&store);
    let mut reader = store.reader(&blob.swarm.digest).unwrap();
    let size = blob.swarm.size;
    for range in [0..1, 5..BLOCK_SIZE + 5, CHUNK as u64 - 1..CHUNK as u64 + 1, size - 1..size, 100..u64::MAX]
    {
        let part = reader.read(range.clone()).unwrap().into_inner();
        assert!(!part.is_empty() && part.len() <= CHUNK && part.len() as u64 <= range.end - range.start);
        assert_eq!(part[..], blob.content[range.start as usize..][..part.len()]);
    }
    let last = reader.read_block(ChunkIndex(2), 2).unwrap().into_inner();
    assert_eq!(last[..], blob.content[2 * CHUNK + 2 * BLOCK_SIZE as usize..]);
    for (start, end) in [(size, size + 1), (5, 5), (u64::MAX - 1, u64::MAX)] {
        assert!(matches!(reader.read(start..end), Err(ReadError::PastEnd { .. })), "{start}..{end}");
    }
    assert!(matches!(reader.read_block(ChunkIndex(2), 3), Err(ReadError::PastEnd { .. })));
    assert!(matches!(reader.read_block(ChunkIndex(3), 0), Err(ReadError::Missing { .. })));
}

#[test]
fn blobs_of_all_shapes_and_both_digests() {
    let dir = tempfile::tempdir().unwrap();
    let lens = [0, 1, 4096, CHUNK - 1, CHUNK, CHUNK + 1];
    let mut blobs: Vec<Blob> = (0..).zip(lens).map(|(seed, len)| Blob::new(seed, len)).collect();
    blobs.push(Blob::with(9, 2 * CHUNK + 7, Algorithm::Sha512));
    {
        let store = open(dir.path());
        for blob in &blobs {
            blob.put(&store);
        }
    }
    let store = open(dir.path());
    for blob in &blobs {
        blob.read_all(&mut store.reader(&blob.swarm.digest).unwrap()).unwrap();
    }
    assert_eq!(store.statistics().complete_blobs, blobs.len());
}

#[test]
fn a_partial_blob_resumes_with_its_evidence() {
    let dir = tempfile::tempdir().unwrap();
    let blob = Blob::new(3, 4 * CHUNK);
    {
        let store = open(dir.path());
        store.begin(&blob.swarm).unwrap();
        for index in [3, 1] {
            store.write_chunk(&blob.swarm, blob.chunk(index), format!("entry {index}").as_bytes()).unwrap();
        }
    }
    let store = open(dir.path());
    let partial = store.begin(&blob.swarm).unwrap();
    store.write_chunk(&blob.swarm, blob.chunk(0), b"entry 0").unwrap();
    let chunks = partial.chunks().unwrap();
    let told: Vec<_> = chunks.iter().map(|chunk| (chunk.index.0, chunk.value, &chunk.evidence[..])).collect();
    let want = [(0, &b"entry 0"[..]), (1, b"entry 1"), (3, b"entry 3")];
    assert_eq!(told, want.map(|(index, evidence)| (index, blob.chunk(index).value, evidence)));
    let missing = store.finish(&blob.swarm, |_| vec![]);
    assert!(matches!(missing, Err(FinishError::Missing { missing: 1, .. })));
    store.write_chunk(&blob.swarm, blob.chunk(2), b"").unwrap();
    store.finish(&blob.swarm, |_| vec![]).unwrap();
    blob.read_all(&mut store.reader(&blob.swarm.digest).unwrap()).unwrap();
}

#[test]
fn swarms_of_one_digest_are_apart_until_one_completes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let good = Blob::new(4, 2 * CHUNK);
    let mut copy = Blob::new(4, 2 * CHUNK);
    copy.swarm.origin = "other.example.com".parse().unwrap();
    let mut wrong = Blob::new(5, 2 * CHUNK);
    wrong.swarm.digest = good.swarm.digest;
    wrong.swarm.round = 1;
    for blob in [&good, &copy, &wrong] {
        store.begin(&blob.swarm).unwrap();
        blob.write_all(&store);
    }
    let mut reader = store.partial_reader(&copy.swarm).unwrap();
    store.finish(&good.swarm, |_| b"first".to_vec()).unwrap();
    assert_eq!(store.finish(&copy.swarm, |_| b"second".to_vec()).unwrap().swarm, good.swarm);
    store.flush().unwrap();
    copy.read_all(&mut reader).expect("a reader of a copy that is not needed any more goes on");
    assert!(matches!(store.finish(&wrong.swarm, |_| vec![]), Err(FinishError::DigestMismatch { .. })));
    let names: Vec<_> = store.list().into_iter().map(|blob| blob.name).collect();
    assert!(names.contains(&BlobName::Complete(good.swarm.digest)) && names.len() == 2, "{names:?}");
    assert_eq!(store.attestation(&good.swarm.digest).unwrap().unwrap(), b"first");
}
