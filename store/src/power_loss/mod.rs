//! A promise of the store, tested: after a loss of power at any moment, no chunk is claimed that is not there,
//! and none is lost that a flush made durable.
//!
//! A recorder logs every change of the folder and every sync. From one log, the folder is rebuilt as it could
//! be after a loss of power at many points: what was synced is there; of what was not, any 4 KiB pages.

#![allow(clippy::cast_possible_truncation)]

mod complete;
mod failures;
mod recorder;
mod sample;

use std::path::Path;
use std::sync::Arc;

use shoal_proto::ChunkIndex;

use crate::blob::lock;
use crate::{BlobName, Store, StoreConfig};
pub(crate) use recorder::{Event, Recorder};
use recorder::{open_recorded, rebuild};
use sample::{Sample, sample};

/// Writes, flushes, finishes, discards, and tells the log what is durable.
fn record(seed: u64, dir: &Path, recorder: &Arc<Recorder>) -> Vec<Sample> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let samples: Vec<Sample> =
        (0..4).map(|n| sample(seed * 10 + n, 300_000 + (n as usize * 550_000))).collect();
    let store = open_recorded(dir, recorder);
    let mut written = vec![Vec::new(); samples.len()];
    for _ in 0..40 {
        let pick = rng.usize(..samples.len());
        let sample = &samples[pick];
        let Ok(partial) = store.begin(&sample.swarm) else { continue };
        let missing: Vec<ChunkIndex> = partial.held().missing_from(ChunkIndex(0)).collect();
        if let Some(index) = rng.choice(missing) {
            store.write_chunk(&sample.swarm, sample.chunk(index.0), b"evidence").unwrap();
            written[pick].push(index.0);
        } else if rng.bool() {
            recorder.note(Event::Released(sample.name())).unwrap();
            store.discard(&sample.swarm).unwrap();
            written[pick].clear();
        } else {
            store.finish(&sample.swarm, |_| b"attested".to_vec()).unwrap();
        }
        if rng.u8(..4) == 0 {
            store.flush().unwrap();
            for (sample, chunks) in samples.iter().zip(&written) {
                recorder.note(Event::Durable(sample.name(), chunks.clone())).unwrap();
                if let Some(complete) = store.complete(&sample.swarm.digest) {
                    let name = BlobName::Complete(complete.swarm.digest);
                    recorder.note(Event::Durable(name, chunks.clone())).unwrap();
                }
            }
        }
    }
    samples
}

#[test]
fn after_a_loss_of_power_nothing_is_claimed_that_is_lost_and_nothing_durable_is_lost() {
    let mut completed = 0;
    for seed in 1..=3 {
        let recorder = Arc::new(Recorder::default());
        let dir = tempfile::tempdir().unwrap();
        let samples = record(seed, dir.path(), &recorder);
        let log = lock(&recorder.log).clone();
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut cuts: Vec<usize> = (0..40).map(|_| rng.usize(..=log.len())).collect();
        cuts.push(log.len());
        for cut in cuts {
            let after = tempfile::tempdir().unwrap();
            let durable = rebuild(&log[..cut], after.path(), &mut rng);
            let store = Store::open(StoreConfig::new(after.path())).unwrap();
            for sample in &samples {
                let claimed = sample.claimed(&store);
                let claimed = claimed.unwrap_or_else(|error| panic!("seed {seed}, cut {cut}: {error}"));
                for chunk in durable.get(&sample.name()).into_iter().flatten() {
                    assert!(claimed.contains(chunk), "seed {seed}, cut {cut}: chunk {chunk} is lost");
                }
                let digest = sample.swarm.digest;
                match store.complete(&digest) {
                    Some(complete) => {
                        completed += 1;
                        assert!(
                            complete.held.is_full(),
                            "seed {seed}, cut {cut}: complete with chunks missing"
                        );
                        assert_eq!(store.map(&digest).unwrap().values().len(), complete.held.len() as usize);
                        assert_eq!(store.attestation(&digest).unwrap().unwrap(), b"attested");
                    }
                    None => assert!(
                        !durable.contains_key(&BlobName::Complete(digest)),
                        "seed {seed}, cut {cut}: a complete blob is partial again"
                    ),
                }
            }
        }
    }
    assert!(completed > 0);
}
