//! containerd starts containers from unmodified images through `shoal fs`, before the images are there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, reason = "bytes of a small image, counted in a metric")]

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use shoal_proto::Digest;
use shoal_tests::{
    Blob, Cluster, Image, ImageBuilder, Kubelet, Needs, Registry, ShoalFs, available, programs,
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";
const REFERENCE: &str = "registry.test/library/app:v1";
const MIB: u64 = 1 << 20;
/// One of the files of the second layer.
const LARGE: &str = "layer1/file7";
const PROGRAMS: &[&str] = &["sh", "cat", "sha256sum", "head"];

fn can_run() -> bool {
    available(Needs::CONTAINERS) && File::open("/dev/fuse").is_ok()
}

/// An image with programs, and a layer of which a container reads little.
fn image() -> Image {
    ImageBuilder::new(11).tar(programs(PROGRAMS)).layer(40 * MIB).build()
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
    registry.push(image, REPOSITORY, "v1").await;
    let cluster = Cluster::builder().nodes(2).registry(NAME, &registry.url()).start().await;
    cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    cluster.node(0).indexed(image.here().layers.len()).await;
    cluster
}

fn diff_id(layer: &Blob) -> Digest {
    let mut tar = Vec::new();
    flate2::read::GzDecoder::new(&*layer.bytes).read_to_end(&mut tar).unwrap();
    Digest::sha256(Sha256::digest(&tar).into())
}

/// A container that hashes the files that it is told of, until it is told of no more.
struct Reader {
    container: Child,
    asks: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Reader {
    fn start(kubelet: &Kubelet) -> Self {
        let script = "while read -r path; do sha256sum $path; done";
        let mut container = kubelet.start_container(REFERENCE, "reader", &["/bin/sh", "-c", script]);
        let answers = BufReader::new(container.stdout.take().unwrap()).lines();
        Self { asks: container.stdin.take(), answers, container }
    }

    async fn ask(&mut self, path: &str) {
        self.asks.as_mut().unwrap().write_all(format!("{path}\n").as_bytes()).await.unwrap();
    }

    async fn answer(&mut self) -> String {
        self.answers.next_line().await.unwrap().expect("the container goes on")
    }

    async fn sum(&mut self, path: &str) -> String {
        self.ask(path).await;
        self.answer().await
    }

    async fn end(mut self) {
        self.asks = None;
        assert!(self.container.wait().await.unwrap().success());
    }
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
    // Nor did other nodes: the manifest alone makes nobody fetch layers that are shown.
    assert!(cluster.node(1).metrics().await.sum("shoal_peer_chunk_bytes_total") < 1e6);
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

    let mut reader = Reader::start(&kubelet);
    for step in 0..4 {
        let path = format!("layer1/file{}", 4 + step);
        match step {
            1 => fs.kill_server().await,
            2 => cluster.node_mut(1).kill9().await,
            _ => {}
        }
        reader.ask(&format!("/{path}")).await;
        if step == 2 {
            // A reader waits for what nobody can give now.
            cluster.node_mut(1).start().await;
        }
        let answer = reader.answer().await;
        assert!(answer.starts_with(&sha256(&content(&image, 1, &path))), "{answer}");
    }
    reader.end().await;

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

#[tokio::test(flavor = "multi_thread")]
async fn layers_are_shown_up_to_the_first_without_an_index_and_containerd_unpacks_the_rest() {
    if !can_run() {
        return;
    }
    let registry = Registry::start().await;
    let image = image();
    let cluster = cluster_with(&image, &registry).await;
    // The same two layers, and two more that no node has seen.
    let builder = ImageBuilder::new(11).tar(programs(PROGRAMS)).layer(40 * MIB).layer(MIB).layer(MIB);
    let longer = builder.build();
    assert_eq!(longer.here().layers[1].digest, image.here().layers[1].digest);
    registry.push(&longer, REPOSITORY, "v2").await;
    let mut fs = ShoalFs::start(&cluster.node(1).lazy_socket(), &["--fill", "never"]).await;
    let mut kubelet = Kubelet::start(&fs.socket(), cluster.node(1).mirror()).await;
    kubelet.pull("registry.test/library/app:v2").await.unwrap();

    let held = kubelet.ctr(["content", "ls", "-q"]).await.unwrap().text();
    let fetched = longer.here().layers.iter().map(|layer| held.contains(&layer.digest.to_string()));
    assert_eq!(fetched.collect::<Vec<_>>(), [false, false, true, true]);
    assert_eq!(fs.folders(), 2);
    let files = ["layer1/file0", "layer2/file0", "layer3/file0"];
    let mut program = vec!["/bin/sha256sum"];
    program.extend(files);
    let ran = kubelet.run("registry.test/library/app:v2", "mixed", &program).await.unwrap().text();
    for ((layer, file), line) in (1..).zip(files).zip(ran.lines()) {
        assert!(line.starts_with(&sha256(&content(&longer, layer, file))), "{line}");
    }
    kubelet.stop().await;
    fs.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_claims_another_ones_layers_plants_nothing_under_their_names() {
    if !can_run() {
        return;
    }
    let registry = Registry::start().await;
    let image = image();
    let cluster = cluster_with(&image, &registry).await;
    let diff_ids: Vec<_> = image.here().layers.iter().map(diff_id).collect();
    let liar = ImageBuilder::new(12).tar(programs(&["cat"])).layer(MIB).claiming(&diff_ids).build();
    registry.push(&liar, REPOSITORY, "liar").await;
    cluster.node(0).puller(NAME).pull(REPOSITORY, "liar").await.unwrap();
    cluster.node(0).indexed(4).await;
    let mut fs = ShoalFs::start(&cluster.node(1).lazy_socket(), &["--fill", "never"]).await;
    let mut kubelet = Kubelet::start(&fs.socket(), cluster.node(1).mirror()).await;
    // containerd unpacks it, and compares.
    kubelet.pull("registry.test/library/app:liar").await.unwrap_err();
    let committed = |names: Vec<String>| names.into_iter().filter(|name| name.starts_with("sha256:")).count();
    assert_eq!(committed(kubelet.snapshots().await), 0);
    kubelet.pull(REFERENCE).await.unwrap();
    assert_eq!(committed(kubelet.snapshots().await), 2);
    let ran = kubelet.run(REFERENCE, "right", &["/bin/sha256sum", LARGE]).await.unwrap();
    assert!(ran.text().starts_with(&sha256(&content(&image, 1, LARGE))), "{}", ran.text());
    kubelet.stop().await;
    fs.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_systemd_to_keep_the_mount_a_container_outlasts_every_process_of_it() {
    if !can_run() {
        return;
    }
    let registry = Registry::start().await;
    let image = image();
    let cluster = cluster_with(&image, &registry).await;
    let mut fs = ShoalFs::start_under_systemd(&cluster.node(1).lazy_socket(), &["--fill", "never"]).await;
    let mut kubelet = Kubelet::start(&fs.socket(), cluster.node(1).mirror()).await;
    kubelet.pull(REFERENCE).await.unwrap();
    let mut reader = Reader::start(&kubelet);
    assert!(reader.sum("/layer1/file1").await.starts_with(&sha256(&content(&image, 1, "layer1/file1"))));
    fs.kill9().await;
    fs.start_again().await;
    assert!(reader.sum("/layer1/file2").await.starts_with(&sha256(&content(&image, 1, "layer1/file2"))));
    // As `systemctl restart` does it.
    fs.stop().await;
    assert_eq!(fs.mounts().len(), 2, "the mount, and the container on it: {:?}", fs.mounts());
    fs.start_again().await;
    assert!(reader.sum("/layer1/file3").await.starts_with(&sha256(&content(&image, 1, "layer1/file3"))));
    reader.end().await;
    kubelet.restart().await;
    let ran = kubelet.run(REFERENCE, "new", &["/bin/sha256sum", LARGE]).await.unwrap();
    assert!(ran.text().starts_with(&sha256(&content(&image, 1, LARGE))), "{}", ran.text());
    kubelet.stop().await;
    fs.stop().await;
}
