//! containerd starts containers from unmodified images through `shoal fs`, before the images are there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, reason = "bytes of a small image, counted in a metric")]

use std::fs::Permissions;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use shoal_proto::Digest;
use shoal_tests::{
    Blob, Cluster, Credentials, FileReader, Image, ImageBuilder, Kubelet, Needs, Node, Registry, ShoalFs,
    available, programs, shoal_binary,
};

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";
const REFERENCE: &str = "registry.test/library/app:v1";
const MIB: u64 = 1 << 20;
/// One of the files of the second layer.
const LARGE: &str = "layer1/file7";
const PROGRAMS: &[&str] = &["sh", "cat", "sha256sum", "head"];

/// An image with programs, and a layer of which a container reads little.
fn image() -> Image {
    ImageBuilder::new(11).tar(programs(PROGRAMS)).layer(40 * MIB).build()
}

/// The content of a file in a layer.
fn content(image: &Image, layer: usize, path: &str) -> Vec<u8> {
    image.files(layer).into_iter().find(|(name, _)| name == path).unwrap().1
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

/// Bytes of layers and indexes that a node got for its filesystem.
async fn moved(cluster: &Cluster, node: usize) -> u64 {
    cluster.node(node).metrics().await.sum("shoal_lazy_ranges_bytes_total") as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_starts_from_an_unmodified_image_with_only_the_spans_that_it_reads() {
    if !available(Needs::CONTAINERS) {
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

    // Other users of the machine find no way in, whatever modes the files have.
    let shown = fs.layer(1).join(LARGE);
    for folder in [fs.folder().to_owned(), fs.folder().join("m")] {
        std::fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    }
    let beside = fs.folder().join("m/beside");
    std::fs::write(&beside, "").unwrap();
    let read_by = |user, path: &Path| {
        Command::new("cat").arg(path).uid(user).gid(user).output().unwrap().status.success()
    };
    assert!(read_by(0, &shown) && read_by(65534, &beside));
    assert!(!read_by(65534, &shown));

    // What was read of layers may be lost; it is shown again, under new numbers.
    fs.kill9().await;
    std::fs::remove_dir_all(fs.folder().join("state/cache")).unwrap();
    fs.start_again().await;
    kubelet.restart().await;
    let again = kubelet.run(REFERENCE, "again", &["/bin/sha256sum", LARGE]).await.unwrap();
    assert!(again.text().starts_with(&sha256(&content(&image, 1, LARGE))), "{}", again.text());
    assert!(fs.layer(3).exists() && !fs.layer(1).exists());

    assert_eq!(kubelet.snapshots().await.len(), 2);
    kubelet.remove(REFERENCE).await;
    assert_eq!(kubelet.snapshots().await, [""; 0]);
    assert_eq!(fs.folders(), 0);
    kubelet.stop().await;
    fs.stop().await;
    assert_eq!(fs.mounts(), [""; 0]);
}

/// What the node says of its filesystem, once that is so.
async fn filesystem(node: &Node, is_so: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let said = node.status().await["filesystem"].take();
        if is_so(&said) {
            return said;
        }
        assert!(Instant::now() < deadline, "{said:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_shows_what_its_filesystem_does() {
    if !available(Needs::CONTAINERS) {
        return;
    }
    let registry = Registry::start().await;
    let image = image();
    let cluster = cluster_with(&image, &registry).await;
    let node = cluster.node(1);
    assert!(node.status().await["filesystem"].is_null());
    let mut fs = ShoalFs::start(&node.lazy_socket(), &["--fill", "never", "--disk", "1GiB"]).await;
    let mut kubelet = Kubelet::start(&fs.socket(), node.mirror()).await;
    kubelet.pull(REFERENCE).await.unwrap();
    let ran = kubelet.run(REFERENCE, "first", &["/bin/sha256sum", "layer1/file1"]).await.unwrap();
    assert!(ran.text().starts_with(&sha256(&content(&image, 1, "layer1/file1"))));

    let file = content(&image, 1, "layer1/file1").len() as u64;
    let number = |said: &Value| said.as_u64().unwrap();
    let said = filesystem(node, |said| said["read_bytes"].as_u64().is_some_and(|read| read >= file)).await;
    let shown = &said["images"][0];
    let tars: u64 =
        (0..2).flat_map(|layer| image.files(layer)).map(|(_, content)| content.len() as u64).sum();
    assert!(shown["name"].as_str().unwrap().contains(&image.here().manifest.digest.to_string()), "{said:#}");
    assert_eq!((number(&shown["layers"]), number(&shown["whole_layers"])), (2, 0));
    assert!(number(&shown["tar_bytes"]) >= tars && number(&shown["store_bytes"]) == 0, "{said:#}");
    let local = number(&shown["local_bytes"]);
    assert!(local >= file && local < tars / 2, "{said:#}");
    assert!(number(&said["spans"]["peer"]) > 0 && number(&said["spans"]["registry"]) == 0, "{said:#}");
    assert!(number(&said["disk_used_bytes"]) >= local / 2 && number(&said["disk_limit_bytes"]) == 1 << 30);
    let waits: u64 = said["waits"].as_array().unwrap().iter().map(|wait| number(&wait["reads"])).sum();
    assert!(waits > 0 && number(&said["fetched_bytes"]) > 0, "{said:#}");

    let metrics = node.metrics().await;
    assert!(metrics.sum("shoal_fs_spans_total") >= number(&said["spans"]["peer"]) as f64);
    assert!(metrics.sum("shoal_fs_wait_seconds_count") >= waits as f64);
    assert!(metrics.sum("shoal_fs_layers_local_bytes") >= local as f64);
    assert!(metrics.sum("shoal_fs_images") == 1.0);
    let mut status = std::process::Command::new(shoal_binary());
    let status = status.args(["status", "--admin", &node.admin().to_string()]).output().unwrap();
    let text = String::from_utf8(status.stdout).unwrap();
    assert!(
        text.contains("shoal fs   1 images; ") && text.contains("0/2  registry.test/library/app"),
        "{text}"
    );

    kubelet.stop().await;
    fs.stop().await;
    filesystem(node, Value::is_null).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_image_is_fetched_whole() {
    if !available(Needs::CONTAINERS) {
        return;
    }
    let registry = Registry::start().await;
    let image = image();
    let cluster = cluster_with(&image, &registry).await;
    let smallest = (layer_bytes(&image) + 1).to_string();
    let mut fs = ShoalFs::start(&cluster.node(1).lazy_socket(), &["--smallest", &smallest]).await;
    let mut kubelet = Kubelet::start(&fs.socket(), cluster.node(1).mirror()).await;
    kubelet.pull(REFERENCE).await.unwrap();
    let held = kubelet.ctr(["content", "ls", "-q"]).await.unwrap().text();
    assert!(image.here().layers.iter().all(|layer| held.contains(&layer.digest.to_string())), "{held}");
    assert_eq!(fs.folders(), 2, "both are unpacked");
    let ran = kubelet.run(REFERENCE, "first", &["/bin/sha256sum", LARGE]).await.unwrap();
    assert!(ran.text().starts_with(&sha256(&content(&image, 1, LARGE))), "{}", ran.text());
    assert_eq!(moved(&cluster, 1).await, 0);
    kubelet.stop().await;
    fs.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_an_index_is_unpacked_as_without_shoal() {
    if !available(Needs::CONTAINERS) {
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

/// Files below a folder, of this filesystem, that contain one of these texts.
fn files_with(folder: &Path, texts: &[&str]) -> Vec<PathBuf> {
    let mut grep = std::process::Command::new("grep");
    grep.args([
        "--recursive",
        "--files-with-matches",
        "--fixed-strings",
        "--exclude-dir=m",
        "--devices=skip",
    ]);
    for text in texts {
        grep.args(["-e", text]);
    }
    let found = grep.arg(folder).output().unwrap();
    assert!(found.status.code().is_some_and(|code| code < 2), "{found:?}");
    String::from_utf8(found.stdout).unwrap().lines().map(PathBuf::from).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_pull_secret_opens_is_shown_and_becomes_whole_at_once() {
    if !available(Needs::CONTAINERS) {
        return;
    }
    let login = Credentials::new("alice", "correct horse");
    let registry = Registry::private(login.clone()).await;
    let image = image();
    registry.push(&image, REPOSITORY, "v1").await;
    let cluster = Cluster::builder().nodes(2).registry(NAME, &registry.url()).start().await;
    cluster.node(0).puller(NAME).login(Some(&login)).pull(REPOSITORY, "v1").await.unwrap();
    cluster.node(0).indexed(2).await;
    let mut fs = ShoalFs::start(&cluster.node(1).lazy_socket(), &["--fill", "never"]).await;
    let mut kubelet = Kubelet::start(&fs.socket(), cluster.node(1).mirror()).await;
    kubelet.pull(REFERENCE).await.unwrap_err();
    let mallory = Credentials::new("mallory", "correct horse");
    kubelet.pull_as(REFERENCE, &mallory).await.unwrap_err();

    kubelet.pull_as(REFERENCE, &login).await.unwrap();
    // Who serves next borrows again.
    fs.kill_server().await;
    let held = kubelet.ctr(["content", "ls", "-q"]).await.unwrap().text();
    for layer in &image.here().layers {
        assert!(!held.contains(&layer.digest.to_string()), "containerd fetched a layer");
    }
    fs.whole(2).await;
    let ran = kubelet.run(REFERENCE, "first", &["/bin/sha256sum", LARGE]).await.unwrap();
    assert!(ran.text().starts_with(&sha256(&content(&image, 1, LARGE))), "{}", ran.text());
    kubelet.pull(REFERENCE).await.unwrap_err();
    let secrets = [login.base64(), login.password.clone()];
    let secrets = secrets.each_ref().map(String::as_str);
    assert_eq!(files_with(fs.folder(), &secrets), Vec::<PathBuf>::new());
    let node = cluster.node(1);
    assert_eq!(files_with(node.data_dir(), &secrets), Vec::<PathBuf>::new());
    assert!(secrets.iter().all(|secret| !node.output().contains(secret)));
    kubelet.stop().await;
    fs.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_reads_on_when_what_serves_it_is_killed_and_its_daemon_too() {
    if !available(Needs::CONTAINERS) {
        return;
    }
    let registry = Registry::start().await;
    let image = image();
    let mut cluster = cluster_with(&image, &registry).await;
    let mut fs = ShoalFs::start(&cluster.node(1).lazy_socket(), &["--fill", "never"]).await;
    let mut kubelet = Kubelet::start(&fs.socket(), cluster.node(1).mirror()).await;
    kubelet.pull(REFERENCE).await.unwrap();

    let mut reader = FileReader::start(&kubelet, REFERENCE).await;
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
    if !available(Needs::CONTAINERS) {
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
    if !available(Needs::CONTAINERS) {
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
    if !available(Needs::CONTAINERS) {
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
    if !available(Needs::CONTAINERS) {
        return;
    }
    let registry = Registry::start().await;
    let image = image();
    let cluster = cluster_with(&image, &registry).await;
    let mut fs = ShoalFs::start_under_systemd(&cluster.node(1).lazy_socket(), &["--fill", "never"]).await;
    let mut kubelet = Kubelet::start(&fs.socket(), cluster.node(1).mirror()).await;
    kubelet.pull(REFERENCE).await.unwrap();
    let mut reader = FileReader::start(&kubelet, REFERENCE).await;
    assert!(reader.sum("/layer1/file1").await.starts_with(&sha256(&content(&image, 1, "layer1/file1"))));
    fs.kill9().await;
    fs.start_again().await;
    assert!(reader.sum("/layer1/file2").await.starts_with(&sha256(&content(&image, 1, "layer1/file2"))));
    // As `systemctl restart` does it.
    fs.stop().await;
    assert_eq!(fs.mounts().len(), 4, "the mount, two layers, and the container on them: {:?}", fs.mounts());
    fs.start_again().await;
    assert!(reader.sum("/layer1/file3").await.starts_with(&sha256(&content(&image, 1, "layer1/file3"))));
    reader.end().await;
    kubelet.restart().await;
    let ran = kubelet.run(REFERENCE, "new", &["/bin/sha256sum", LARGE]).await.unwrap();
    assert!(ran.text().starts_with(&sha256(&content(&image, 1, LARGE))), "{}", ran.text());
    kubelet.stop().await;
    fs.stop().await;
}
