//! A child process writes and says what it flushed; it is killed at a random line.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use shoal_proto::ChunkIndex;

use crate::blobs::{Blob, CHUNK, open, start};

const FOLDER: &str = "SHOAL_STORE_TEST_FOLDER";
const BLOBS: u64 = 3;

fn blob(number: u64) -> Blob {
    Blob::new(number, 4 * CHUNK + 1000 * number as usize)
}

#[test]
#[ignore = "the child of the test below"]
fn child_that_writes_until_it_is_killed() {
    let Some(dir) = std::env::var_os(FOLDER) else { return };
    let store = open(&PathBuf::from(dir));
    let mut rng = fastrand::Rng::new();
    // One write for each line, so that none is cut.
    let say = |line: String| std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
    loop {
        let blob = blob(rng.u64(..BLOBS));
        let Ok(partial) = store.begin(&blob.swarm) else {
            say(format!("gone {}", blob.swarm.digest));
            store.remove(&blob.swarm.digest).unwrap();
            continue;
        };
        let missing: Vec<_> = partial.held().missing_from(ChunkIndex(0)).collect();
        match rng.choice(missing) {
            Some(index) => store.write_chunk(&blob.swarm, blob.chunk(index.0), b"evidence").unwrap(),
            None => drop(store.finish(&blob.swarm, |_| vec![]).unwrap()),
        }
        say("wrote".into());
        if rng.bool() {
            let held: Vec<u32> = store
                .partial_reader(&blob.swarm)
                .map_or(vec![], |reader| reader.held().iter().map(|index| index.0).collect());
            store.flush().unwrap();
            for index in held {
                say(format!("durable {} {index}", blob.swarm.digest));
            }
        }
    }
}

#[test]
fn twenty_kills() {
    let dir = tempfile::tempdir().unwrap();
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    for kill in 0..20 {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["child_that_writes_until_it_is_killed", "--include-ignored", "--nocapture"])
            .env(FOLDER, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = start(&mut command).unwrap();
        let mut durable = HashSet::new();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut take = |count| {
            for line in lines.by_ref().take(count) {
                let line = line.unwrap();
                match line.split(' ').collect::<Vec<_>>()[..] {
                    ["durable", digest, index] => {
                        durable.insert((digest.to_owned(), index.parse::<u32>().unwrap()));
                    }
                    ["gone", gone] => durable.retain(|(digest, _)| digest != gone),
                    ["wrote"] => {}
                    _ => panic!("the child said {line:?}"),
                }
            }
        };
        take(rng.usize(1..60));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it said before it died.
        take(usize::MAX);

        let store = open(dir.path());
        for number in 0..BLOBS {
            let blob = blob(number);
            let digest = blob.swarm.digest;
            let reader = store.reader(&digest).or_else(|_| store.partial_reader(&blob.swarm));
            let mut held = HashSet::new();
            if let Ok(mut reader) = reader {
                for index in reader.held().iter() {
                    let read = blob.read_chunk(&mut reader, index.0);
                    assert!(read.is_ok(), "seed {seed}, kill {kill}: {read:?}");
                    held.insert(index.0);
                }
            }
            for (_, index) in durable.iter().filter(|(said, _)| *said == digest.to_string()) {
                assert!(held.contains(index), "seed {seed}, kill {kill}: chunk {index} of {digest} is lost");
            }
        }
    }
}
