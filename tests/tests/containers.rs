//! containerd starts containers from unmodified images through `shoal fs`, before the images are there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, reason = "bytes of a small image, counted in a metric")]

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use shoal_tests::{Cluster, Image, ImageBuilder, Kubelet, Needs, Registry, ShoalFs, available, programs};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";
const REFERENCE: &str = "registry.test/library/app:v1";
const MIB: u64 = 1 << 20;
/// One of the files of the second layer.
const LARGE: &str = "layer1/file7";

fn can_run() -> bool {
    available(Needs::CONTAINERS) && File::open("/dev/fuse").is_ok()
}

/// An image with programs, and a layer of which a container reads little.
fn image() -> Image {
    ImageBuilder::new(11).tar(programs(&["sh", "cat", "sha256sum", "head"])).layer(40 * MIB).build()
}

/// The content of a file in a layer.
fn content(image: &Image, layer: usize, path: &str) -> Vec<u8> {
    let unpacked = flate2::read::GzDecoder::new(&*image.here().layers[layer].bytes);
    let mut tar = tar::Archive::new(unpacked);
    let mut files = tar.entries().unwrap().map(Result::unwrap);
    let mut found = files.find(|file| file.path().unwrap() == Path::new(path)).unwrap();
    let mut content = Vec::new();
    found.read_to_end(&mut content).unwrap();
    content
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn layer_bytes(image: &Image) -> u64 {
    image.here().layers.iter().map(|layer| layer.bytes.len() as u64).sum()
}

/// Two nodes; the first has pulled the image and made its indexes.
async fn cluster_with(image: &Image, registry: &Registry) -> Cluster {
    let cluster = Cluster::builder().nodes(2).registry(NAME, &registry.url()).start().await;
    registry.push(image, REPOSITORY, "v1").await;
    cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    cluster.node(0).indexed(image.here().layers.len()).await;
    cluster
}

/// Bytes of layers and indexes that a node got for its filesystem.
async fn moved(cluster: &Cluster, node: usize) -> u64 {
    cluster.node(node).metrics().await.sum("shoal_lazy_ranges_bytes_total") as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_starts_from_an_unmodified_image_with_only_the_spans_that_it_reads() {
    if !can_run() {
        return;
    }
    let registry = Registry::start().await;
    let image = image();
    let cluster = cluster_with(&image, &registry).await;
    let sent = registry.blob_bytes().await;
    let mut fs = ShoalFs::start(&cluster.node(1).lazy_socket(), &["--fill", "never"]).await;
    let mut kubelet = Kubelet::start(&fs.socket(), cluster.node(1).mirror()).await;

    kubelet.pull(REFERENCE).await.unwrap();
    let pulled = moved(&cluster, 1).await;
    let ran = kubelet.run(REFERENCE, "first", &["/bin/head", "-c", "5", LARGE]).await.unwrap();
    assert_eq!(ran.stdout, content(&image, 1, LARGE)[..5]);
    let (started, all) = (moved(&cluster, 1).await, layer_bytes(&image));
    println!(
        "of {all} bytes of layers {pulled} were moved by the pull, {started} until the container had run"
    );
    assert!(started < all / 4);
    // The registry gave the manifest and its configuration to the other node, and no layer to this one.
    assert_eq!(registry.blob_bytes().await, sent);
    let held = kubelet.ctr(["content", "ls", "-q"]).await.unwrap().text();
    for layer in &image.here().layers {
        assert!(!held.contains(&layer.digest.to_string()), "containerd fetched a layer");
    }

    // What a container writes is its own.
    let script = format!("echo new >/{LARGE}; cat /{LARGE}; echo x >/bin/added; cat /bin/added");
    let wrote = kubelet.run(REFERENCE, "second", &["/bin/sh", "-c", &script]).await.unwrap();
    assert_eq!(wrote.text(), "new\nx\n");
    let whole = kubelet.run(REFERENCE, "third", &["/bin/sha256sum", LARGE]).await.unwrap();
    assert!(whole.text().starts_with(&sha256(&content(&image, 1, LARGE))), "{}", whole.text());

    assert_eq!(kubelet.snapshots().await.len(), 2);
    kubelet.remove(REFERENCE).await;
    assert_eq!(kubelet.snapshots().await, [""; 0]);
    assert_eq!(fs.folders(), 0);
    kubelet.stop().await;
    fs.stop().await;
    assert_eq!(fs.mounts(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_an_index_is_unpacked_as_without_shoal() {
    if !can_run() {
        return;
    }
    let registry = Registry::start().await;
    let image = image();
    let cluster =
        Cluster::builder().nodes(1).registry(NAME, &registry.url()).toml("[lazy]\nindex = false").start();
    let cluster = cluster.await;
    registry.push(&image, REPOSITORY, "v1").await;
    let mut fs = ShoalFs::start(&cluster.node(0).lazy_socket(), &[]).await;
    let mut kubelet = Kubelet::start(&fs.socket(), cluster.node(0).mirror()).await;
    kubelet.pull(REFERENCE).await.unwrap();
    assert_eq!(fs.folders(), 2);
    let ran = kubelet.run(REFERENCE, "first", &["/bin/sha256sum", LARGE]).await.unwrap();
    assert!(ran.text().starts_with(&sha256(&content(&image, 1, LARGE))), "{}", ran.text());
    assert_eq!(moved(&cluster, 0).await, 0);
    kubelet.remove(REFERENCE).await;
    assert_eq!(kubelet.snapshots().await, [""; 0]);
    assert_eq!(fs.folders(), 0);
    kubelet.stop().await;
    fs.stop().await;
    assert_eq!(fs.mounts(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_reads_on_when_what_serves_it_is_killed_and_its_daemon_too() {
    if !can_run() {
        return;
    }
    let registry = Registry::start().await;
    let image = image();
    let mut cluster = cluster_with(&image, &registry).await;
    let mut fs = ShoalFs::start(&cluster.node(1).lazy_socket(), &["--fill", "never"]).await;
    let mut kubelet = Kubelet::start(&fs.socket(), cluster.node(1).mirror()).await;
    kubelet.pull(REFERENCE).await.unwrap();

    let script = "while read -r path; do sha256sum $path; done";
    let mut container = kubelet.start_container(REFERENCE, "reader", &["/bin/sh", "-c", script]);
    let mut asks = container.stdin.take().unwrap();
    let mut answers = BufReader::new(container.stdout.take().unwrap()).lines();
    for step in 0..4 {
        let path = format!("layer1/file{}", 4 + step);
        match step {
            1 => fs.kill_server().await,
            2 => cluster.node_mut(1).kill9().await,
            _ => {}
        }
        asks.write_all(format!("/{path}\n").as_bytes()).await.unwrap();
        if step == 2 {
            // A reader waits for what nobody can give now.
            cluster.node_mut(1).start().await;
        }
        let answer = answers.next_line().await.unwrap().expect("the container goes on");
        assert!(answer.starts_with(&sha256(&content(&image, 1, &path))), "{answer}");
    }
    drop(asks);
    assert!(container.wait().await.unwrap().success());

    // The successor knows all snapshots.
    assert_eq!(kubelet.snapshots().await.len(), 2);
    let ran = kubelet.run(REFERENCE, "second", &["/bin/sha256sum", LARGE]).await.unwrap();
    assert!(ran.text().starts_with(&sha256(&content(&image, 1, LARGE))));

    kubelet.remove(REFERENCE).await;
    assert_eq!(kubelet.snapshots().await, [""; 0]);
    kubelet.stop().await;
    fs.stop().await;
    assert_eq!(fs.mounts(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_machine_started_again_a_container_starts_with_nobody_else_there() {
    if !can_run() {
        return;
    }
    let registry = Registry::start().await;
    let image = image();
    let mut cluster = cluster_with(&image, &registry).await;
    let mut fs =
        ShoalFs::start(&cluster.node(1).lazy_socket(), &["--eager", "registry.test/library/*"]).await;
    let mut kubelet = Kubelet::start(&fs.socket(), cluster.node(1).mirror()).await;
    kubelet.pull(REFERENCE).await.unwrap();
    fs.whole(2).await;
    let before = kubelet.snapshots().await;

    cluster.node_mut(1).kill9().await;
    fs.kill9().await;
    fs.start_again().await;
    kubelet.restart().await;
    assert_eq!(kubelet.snapshots().await, before);
    let ran = kubelet.run(REFERENCE, "again", &["/bin/sha256sum", LARGE]).await.unwrap();
    assert!(ran.text().starts_with(&sha256(&content(&image, 1, LARGE))), "{}", ran.text());
    kubelet.remove(REFERENCE).await;
    assert_eq!(kubelet.snapshots().await, [""; 0]);
    kubelet.stop().await;
    fs.stop().await;
    assert_eq!(fs.mounts(), [""; 0]);
}
