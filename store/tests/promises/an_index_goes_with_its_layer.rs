//! Which blob is a layer's index is known over restarts, and never of an index that is gone.

use shoal_store::{BlobName, IndexFact, StoreError};

use crate::blobs::{Blob, CHUNK, open};

#[test]
fn it_is_known_over_restarts_and_removed_with_its_row() {
    let dir = tempfile::tempdir().unwrap();
    let (layer, index, other) = (Blob::new(1, CHUNK), Blob::new(2, 3000), Blob::new(3, 10));
    let built = IndexFact::Built { file: index.swarm.digest, claim: b"signed".to_vec() };
    let declined = IndexFact::Declined { reason: "a single frame".into() };
    {
        let store = open(dir.path());
        layer.put(&store);
        index.put(&store);
        assert_eq!(store.index(&layer.swarm.digest).unwrap(), None);
        store.put_index(&layer.swarm.digest, &built).unwrap();
        store.put_index(&other.swarm.digest, &declined).unwrap();
    }
    let store = open(dir.path());
    assert_eq!(store.index(&layer.swarm.digest).unwrap(), Some(built));
    assert_eq!(store.index(&other.swarm.digest).unwrap(), Some(declined));
    assert_eq!(store.indexed_layers().unwrap().len(), 2);
    store.remove_index(&layer.swarm.digest).unwrap();
    store.remove_index(&other.swarm.digest).unwrap();
    store.remove_index(&other.swarm.digest).unwrap();
    assert_eq!(store.indexed_layers().unwrap(), []);
    assert!(store.complete(&index.swarm.digest).is_none(), "its file takes room no more");
    assert!(store.complete(&layer.swarm.digest).is_some());
}

#[test]
fn an_evicted_index_is_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (layer, index) = (Blob::new(1, CHUNK), Blob::new(2, 3000));
    index.put(&store);
    let built = IndexFact::Built { file: index.swarm.digest, claim: vec![] };
    store.put_index(&layer.swarm.digest, &built).unwrap();
    assert_eq!(store.index(&layer.swarm.digest).unwrap(), Some(built));
    store.remove(&index.swarm.digest).unwrap();
    assert_eq!(store.index(&layer.swarm.digest).unwrap(), None);
    store.remove_index(&layer.swarm.digest).unwrap();
    assert!(matches!(store.remove(&index.swarm.digest), Err(StoreError::NotFound(_))));
}

#[test]
fn to_look_at_a_layer_is_no_use_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (older, newer) = (Blob::new(1, 1000), Blob::new(2, 1000));
    older.put(&store);
    newer.put(&store);
    older.read_all(&mut store.look_at(&older.swarm.digest).unwrap()).unwrap();
    assert_eq!(store.list()[0].name, BlobName::Complete(newer.swarm.digest));
    let looking = store.look_at(&older.swarm.digest).unwrap();
    store.evict(u64::MAX / 2);
    assert!(store.complete(&older.swarm.digest).is_some(), "it stays for as long as somebody looks");
    drop(looking);
    store.evict(u64::MAX / 2);
    assert!(store.complete(&older.swarm.digest).is_none());
}
