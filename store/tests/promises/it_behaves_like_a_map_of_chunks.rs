//! Random operations against a model.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use shoal_proto::ChunkIndex;
use shoal_store::FinishError;

use crate::blobs::{Blob, CHUNK, open};

#[derive(Clone, Debug)]
enum Operation {
    Begin(usize),
    Write(usize, u32),
    Finish(usize),
    Discard(usize),
    Remove(usize),
    Flush,
    Reopen,
}

fn operation() -> impl Strategy<Value = Operation> {
    let blob = 0usize..3;
    prop_oneof![
        2 => blob.clone().prop_map(Operation::Begin),
        8 => (blob.clone(), 0u32..4).prop_map(|(blob, index)| Operation::Write(blob, index)),
        3 => blob.clone().prop_map(Operation::Finish),
        1 => blob.clone().prop_map(Operation::Discard),
        1 => blob.prop_map(Operation::Remove),
        1 => Just(Operation::Flush),
        1 => Just(Operation::Reopen),
    ]
}

/// The last blob's content does not have its digest.
fn blobs() -> Vec<Blob> {
    let mut blobs: Vec<Blob> = (0..3).map(|n| Blob::new(n, n as usize * CHUNK + 200_000)).collect();
    blobs[2].swarm.digest = Blob::new(9, 9).swarm.digest;
    blobs
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn random_operations(operations in prop::collection::vec(operation(), 1..60)) {
        let blobs = blobs();
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(dir.path());
        let mut partial: BTreeMap<usize, BTreeSet<u32>> = BTreeMap::new();
        let mut complete: BTreeSet<usize> = BTreeSet::new();
        for operation in operations {
            match operation {
                Operation::Begin(n) => {
                    prop_assert_eq!(store.begin(&blobs[n].swarm).is_ok(), !complete.contains(&n));
                    if !complete.contains(&n) {
                        partial.entry(n).or_default();
                    }
                }
                Operation::Write(n, index) if index < blobs[n].layout().count() => {
                    let written = store.write_chunk(&blobs[n].swarm, blobs[n].chunk(index), b"e");
                    prop_assert_eq!(written.is_ok(), partial.contains_key(&n));
                    if let Some(chunks) = partial.get_mut(&n) {
                        chunks.insert(index);
                    }
                }
                Operation::Write(..) => {}
                Operation::Finish(n) => {
                    let missing = partial.get(&n).map(|chunks| blobs[n].layout().count() - chunks.len() as u32);
                    let finish = store.finish(&blobs[n].swarm, |_| vec![1]);
                    match (missing, finish) {
                        (Some(0), Ok(_)) if n != 2 => {
                            partial.remove(&n);
                            complete.insert(n);
                        }
                        (Some(0), Err(FinishError::DigestMismatch { .. })) if n == 2 => {}
                        (Some(want), Err(FinishError::Missing { missing, .. })) => prop_assert_eq!(missing, want),
                        (None, Err(FinishError::Store(_))) => {}
                        (missing, finish) => prop_assert!(false, "{:?} missing, got {:?}", missing, finish),
                    }
                }
                Operation::Discard(n) => {
                    prop_assert_eq!(store.discard(&blobs[n].swarm).is_ok(), partial.remove(&n).is_some());
                }
                Operation::Remove(n) => {
                    prop_assert_eq!(store.remove(&blobs[n].swarm.digest).is_ok(), complete.remove(&n));
                }
                Operation::Flush => store.flush().unwrap(),
                Operation::Reopen => {
                    drop(store);
                    store = open(dir.path());
                    // That a blob was begun is not worth a row.
                    partial.retain(|_, chunks| !chunks.is_empty());
                }
            }
            let names = store.list().len();
            prop_assert_eq!(names, partial.len() + complete.len());
            for (n, blob) in blobs.iter().enumerate() {
                let reader = store.reader(&blob.swarm.digest).or_else(|_| store.partial_reader(&blob.swarm));
                let want = match complete.contains(&n) {
                    true => Some((0..blob.layout().count()).collect()),
                    false => partial.get(&n).cloned(),
                };
                prop_assert_eq!(reader.is_ok(), want.is_some());
                if let (Ok(mut reader), Some(want)) = (reader, want) {
                    let held: BTreeSet<u32> = reader.held().iter().map(|ChunkIndex(index)| index).collect();
                    prop_assert_eq!(&held, &want);
                    for index in held {
                        blob.read_chunk(&mut reader, index).unwrap();
                    }
                }
            }
        }
    }
}
