//! `shoal mount IMAGE` on a node that never pulled the image: its files come from a node that did, span by span.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, reason = "bytes of a small image, counted in a metric")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use shoal_tests::{Cluster, ImageBuilder, Needs, Registry, available, mounted};

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";
const REFERENCE: &str = "registry.test/library/app:v1";
const MIB: u64 = 1 << 20;

/// The first file below a folder.
fn some_file(folder: &Path) -> std::path::PathBuf {
    let first = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    if first.is_dir() { some_file(&first) } else { first }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_right_and_the_registry_sends_no_layer() {
    if !available(Needs::REGISTRY) || !available(Needs::FUSE) {
        return;
    }
    let mut registry = Registry::start().await;
    let image = ImageBuilder::new(5).text_layer(24 * MIB).layer(9 * MIB).build();
    let mut cluster = Cluster::builder().nodes(2).registry(NAME, &registry.url()).start().await;
    registry.push(&image, REPOSITORY, "v1").await;
    cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    cluster.node(0).indexed(image.here().layers.len()).await;
    let sent = registry.blob_bytes().await;

    let folder = tempfile::tempdir().unwrap();
    let (want, at) = (folder.path().join("want"), folder.path().join("at"));
    fs::create_dir(&want).unwrap();
    fs::create_dir(&at).unwrap();
    for layer in &image.here().layers {
        let file = folder.path().join("layer");
        fs::write(&file, &layer.bytes).unwrap();
        assert!(Command::new("tar").arg("-C").arg(&want).arg("-xzf").arg(&file).status().unwrap().success());
    }

    let socket = cluster.node(1).lazy_socket();
    let options = ["--socket", socket.to_str().unwrap(), REFERENCE];
    let mut process = mounted(&options, &at, &folder.path().join("log")).await;
    let moved = || async { cluster.node(1).metrics().await.sum("shoal_lazy_ranges_bytes_total") as u64 };
    let one = some_file(&want);
    let (middle, mut read, mut same) = (one.metadata().unwrap().len() / 2, [0; 4096], [0; 4096]);
    File::open(at.join(one.strip_prefix(&want).unwrap())).unwrap().read_exact_at(&mut read, middle).unwrap();
    File::open(&one).unwrap().read_exact_at(&mut same, middle).unwrap();
    assert!(read == same);
    let first = moved().await;
    let layers: u64 = image.here().layers.iter().map(|layer| layer.bytes.len() as u64).sum();
    println!("mounted, and a page read, with {first} of {layers} bytes moved");
    assert!(first < layers / 4);
    assert_eq!(registry.blob_bytes().await, sent, "the registry sent nothing more");
    registry.stop().await;
    let differences = Command::new("diff").arg("-r").arg(&want).arg(&at).output().unwrap();
    assert!(differences.status.success(), "{}", String::from_utf8_lossy(&differences.stdout));

    // What was read is on this disk: it can be read with no daemon at all.
    cluster.node_mut(1).kill9().await;
    fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
    let again = Command::new("diff").arg("-r").arg(&want).arg(&at).status().unwrap();
    assert!(again.success());
    assert!(process.stop().await.success());
}
