//! Needs a file system of its own: a small tmpfs in a private mount namespace, which only root may make.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use shoal_proto::{ChunkIndex, SwarmId, VerifiedChunk};
use shoal_store::{Store, StoreConfig, StoreError};

use crate::blobs::{Blob, CHUNK, start};

const FOLDER: &str = "SHOAL_STORE_TEST_SMALL_DISK";

#[test]
fn a_full_disk_is_said_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=80m tmpfs \"$1\" || exit 77; shift; exec \"$@\"";
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .args(["child_on_a_small_disk", "--include-ignored", "--nocapture"])
        .env(FOLDER, dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let run = start(&mut command).and_then(Child::wait_with_output);
    let run = match run {
        Ok(run) if run.status.code() != Some(77) && !run.stderr.starts_with(b"unshare:") => run,
        _ => {
            eprintln!("SKIPPED: a file system of its own needs root");
            return;
        }
    };
    let said = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "the child of the test above"]
fn child_on_a_small_disk() {
    let Some(dir) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let filler = dir.join("filler");
    std::fs::write(&filler, vec![0; 64 << 20]).unwrap();
    // Once by the store's own reserve, once by the error of the file system.
    for reserve_bytes in [8 * CHUNK as u64, 0] {
        let dir = dir.join(format!("reserve-{reserve_bytes}"));
        let store = Store::open(StoreConfig { reserve_bytes, ..StoreConfig::new(&dir) }).unwrap();
        let pinned = Blob::new(1, 2 * CHUNK);
        pinned.put(&store);
        store.pin(&pinned.swarm.digest).unwrap();
        let idle = Blob::new(2, 2 * CHUNK);
        idle.put(&store);
        let large = Blob::new(3, 80 * CHUNK);
        let partial = store.begin(&large.swarm).unwrap();
        let mut written = 0;
        let error = loop {
            match store.write_chunk(&large.swarm, large.chunk(written), b"") {
                Ok(()) => written += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, StoreError::Full { .. }), "{error}");
        assert!(written >= 5, "only {written} chunks fitted");
        assert!(store.complete(&idle.swarm.digest).is_none(), "what may go went first");
        pinned.read_all(&mut store.reader(&pinned.swarm.digest).unwrap()).unwrap();
        let mut reader = store.partial_reader(&large.swarm).unwrap();
        (0..written).for_each(|index| large.read_chunk(&mut reader, index).unwrap());

        // Room again: the store writes again, and what it holds is durable.
        drop((reader, partial));
        store.discard(&large.swarm).unwrap();
        idle.put(&store);
        drop(store);
        let store = Store::open(StoreConfig { reserve_bytes, ..StoreConfig::new(&dir) }).unwrap();
        for blob in [&idle, &pinned] {
            blob.read_all(&mut store.reader(&blob.swarm.digest).unwrap()).unwrap();
        }
        drop(store);
        std::fs::remove_dir_all(&dir).unwrap();
    }
    std::fs::remove_file(&filler).unwrap();
    what_is_read_back_for_its_digest_takes_no_room_once_it_is_discarded(&dir);
}

fn what_is_read_back_for_its_digest_takes_no_room_once_it_is_discarded(dir: &Path) {
    // With chunks of 16 MiB the digest is in the middle of one.
    let swarm = |round| SwarmId { size: 9 << 30, round, ..Blob::new(5, CHUNK).swarm };
    let layout = swarm(0).layout().unwrap();
    assert_eq!(layout.chunk_size(), 16 << 20);
    let chunk = |index| {
        let bytes = vec![u8::try_from(index).unwrap(); 16 << 20];
        VerifiedChunk::from_origin(&layout, ChunkIndex(index), bytes.into()).unwrap()
    };
    let store = Store::open(StoreConfig { reserve_bytes: 0, ..StoreConfig::new(dir.join("large")) }).unwrap();
    for round in 0..3 {
        let chunks: Vec<VerifiedChunk> = (0..4).map(chunk).collect();
        let after = chunk(0);
        let _partial = store.begin(&swarm(round)).unwrap();
        for chunk in chunks {
            store.write_chunk(&swarm(round), chunk, b"").unwrap();
        }
        store.discard(&swarm(round)).unwrap();
        let _partial = store.begin(&swarm(round + 1)).unwrap();
        store.write_chunk(&swarm(round + 1), after, b"").unwrap();
        store.discard(&swarm(round + 1)).unwrap();
    }
}
