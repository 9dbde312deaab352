//! `shoal mount` shows what containerd unpacks, ends when it is told to, and says what is wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[allow(dead_code, reason = "shared with the tests of layers")]
#[path = "../../lazyfs/tests/folder/mod.rs"]
mod folder;
#[allow(dead_code, reason = "shared with the tests of layers")]
#[path = "../../lazyfs/tests/lazy/image.rs"]
mod image;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use folder::{Seen, seen, short};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use shoal_tests::{
    Cluster, Containerd, ImageBuilder, Kubelet, Needs, Process, Registry, ShoalFs, available, mounted,
    shoal_binary,
};

const REFERENCE: &str = "registry.test/library/hard:v1";
/// Folders that some layer's tar only implies: containerd leaves them with the time at which it unpacked.
const IMPLIED: &[&str] = &[
    "inherit",
    "inherit/deep",
    "inherit/deep/new",
    "inherit/deep/new/under",
    "lib",
    "only-implied",
    "only-implied/here",
    "opaque",
    "opaque/old",
    "plain",
];

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An OCI layout of one image.
fn layout(at: &Path, tars: &[Vec<u8>]) {
    let blobs = at.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let blob = |kind: &str, bytes: &[u8]| {
        let name = digest(bytes);
        fs::write(blobs.join(&name), bytes).unwrap();
        let media_type = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": media_type, "digest": format!("sha256:{name}"), "size": bytes.len() })
    };
    let diff_ids: Vec<_> = tars.iter().map(|tar| format!("sha256:{}", digest(tar))).collect();
    let layers: Vec<_> = tars.iter().map(|tar| blob("layer.v1.tar+gzip", &gzip(tar))).collect();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = blob("config.v1+json", config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": layers,
    });
    let mut manifest = blob("manifest.v1+json", manifest.to_string().as_bytes());
    manifest["annotations"] =
        json!({ "org.opencontainers.image.ref.name": "v1", "io.containerd.image.name": REFERENCE });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(at.join("index.json"), index.to_string()).unwrap();
    fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

fn is_mounted(at: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo").unwrap().contains(at.to_str().unwrap())
}

struct Case {
    folder: tempfile::TempDir,
    image: String,
    tars: Vec<Vec<u8>>,
    at: PathBuf,
}

fn case() -> Case {
    let folder = tempfile::tempdir().unwrap();
    let tars = image::adversarial(&folder.path().join("made"));
    layout(&folder.path().join("layout"), &tars);
    let image = format!("oci:{}:v1", folder.path().join("layout").display());
    let at = folder.path().join("mounted");
    fs::create_dir(&at).unwrap();
    Case { folder, image, tars, at }
}

/// What containerd makes of the image of this case, with its own snapshotter.
async fn unpacked_by_containerd(case: &Case) -> BTreeMap<PathBuf, Seen> {
    let archive = case.folder.path().join("archive.tar");
    let packed = Command::new("tar")
        .arg("-C")
        .arg(case.folder.path().join("layout"))
        .arg("-cf")
        .arg(&archive)
        .args(["oci-layout", "index.json", "blobs"])
        .status();
    assert!(packed.unwrap().success());
    let containerd = Containerd::start().await;
    containerd.import(&archive).await.unwrap();
    let unpacked = case.folder.path().join("unpacked");
    fs::create_dir(&unpacked).unwrap();
    containerd.mount(REFERENCE, &unpacked).await.unwrap();
    let seen = seen(&unpacked);
    containerd.unmount(&unpacked).await.unwrap();
    seen
}

fn same(got: &BTreeMap<PathBuf, Seen>, mut want: BTreeMap<PathBuf, Seen>) {
    for path in IMPLIED.iter().map(Path::new) {
        want.get_mut(path).unwrap().mtime = got[path].mtime;
    }
    assert!(want.len() > 40);
    for (path, want) in &want {
        let got = got.get(path).unwrap_or_else(|| panic!("{path:?} is missing"));
        assert!(got == want, "{path:?}: {:?} instead of {:?}", short(got), short(want));
    }
    assert_eq!(got.len(), want.len());
}

#[tokio::test]
async fn an_image_is_what_containerd_unpacks() {
    if !available(Needs::FUSE) || !available(Needs::CONTAINERD) {
        return;
    }
    let case = case();
    let want = unpacked_by_containerd(&case).await;
    let mut process = mounted(&[&case.image], &case.at, &case.folder.path().join("log")).await;
    let got = seen(&case.at);
    assert!(process.stop().await.success());
    same(&got, want);
    assert!(!is_mounted(&case.at));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_containerd_shows_lazily_is_what_it_unpacks() {
    if !available(Needs::FUSE) || !available(Needs::CONTAINERD) || !available(Needs::REGISTRY) {
        return;
    }
    let case = case();
    let want = unpacked_by_containerd(&case).await;
    let registry = Registry::start().await;
    let image = case.tars.iter().cloned().fold(ImageBuilder::new(1), ImageBuilder::tar).build();
    registry.push(&image, "library/hard", "v1").await;
    let cluster = Cluster::builder().nodes(2).registry("registry.test", &registry.url()).start().await;
    cluster.node(0).puller("registry.test").pull("library/hard", "v1").await.unwrap();
    cluster.node(0).indexed(3).await;
    let mut fs = ShoalFs::start(&cluster.node(1).lazy_socket(), &["--fill", "never"]).await;
    let mut kubelet = Kubelet::start(&fs.socket(), cluster.node(1).mirror()).await;
    kubelet.pull(REFERENCE).await.unwrap();
    // What it is called: OCI image specification, "Layer ChainID".
    let diff_ids = case.tars.iter().map(|tar| format!("sha256:{}", digest(tar)));
    let top = diff_ids.reduce(|below, own| format!("sha256:{}", digest(format!("{below} {own}").as_bytes())));
    // At once with how it is mounted: containerd's garbage collection may remove what nothing refers to.
    let view =
        ["snapshots", "--snapshotter", "shoal", "view", "--target", case.at.to_str().unwrap(), "looked-at"];
    let mount = kubelet.ctr(view.into_iter().chain([top.unwrap().as_str()])).await.unwrap().text();
    assert!(Command::new("sh").args(["-c", &mount]).status().unwrap().success(), "{mount}");
    let got = seen(&case.at);
    assert!(Command::new("umount").arg(&case.at).status().unwrap().success());
    assert_eq!(fs.folders(), 0, "no layer was unpacked");
    same(&got, want);
    kubelet.stop().await;
    fs.stop().await;
}

#[tokio::test]
async fn told_to_end_it_waits_for_who_still_reads() {
    if !available(Needs::FUSE) {
        return;
    }
    let case = case();
    let mut process = mounted(&[&case.image], &case.at, &case.folder.path().join("log")).await;
    // A service's processes are all told at once.
    let server = server_of(&process).unwrap();
    let mut reader = Command::new("cat")
        .current_dir(&case.at)
        .arg("/dev/stdin")
        .arg("large")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let all = [server.to_string(), process.pid().unwrap().to_string()];
    let signalled = Command::new("kill").args(all).status().unwrap();
    assert!(signalled.success());
    let deadline = Process::readiness_deadline();
    while is_mounted(&case.at) {
        process.may_still_become_ready(deadline, "unmount");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(process.is_alive());
    drop(reader.stdin.take());
    let read = tokio::task::spawn_blocking(move || reader.wait_with_output().unwrap()).await.unwrap();
    assert_eq!(read.stdout, fs::read(case.folder.path().join("made/middle/large")).unwrap());
    let deadline = Process::readiness_deadline();
    while process.is_alive() {
        assert!(std::time::Instant::now() < deadline, "it did not end");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[test]
fn told_to_end_before_it_has_mounted_it_leaves_nothing() {
    if !available(Needs::FUSE) {
        return;
    }
    let case = case();
    let mut process =
        Command::new(shoal_binary()).arg("mount").arg(&case.image).arg(&case.at).spawn().unwrap();
    let own = PathBuf::from(format!("/var/tmp/shoal-mount-{}-", process.id()));
    let deadline = Process::readiness_deadline();
    while !is_mounted(&own) {
        assert_eq!(process.try_wait().unwrap(), None);
        assert!(std::time::Instant::now() < deadline, "it mounts nothing");
    }
    let told = Command::new("kill").args(["-INT", &process.id().to_string()]).status().unwrap();
    assert!(told.success());
    process.wait().unwrap();
    assert!(!is_mounted(&own) && !is_mounted(&case.at));
    let left = fs::read_dir("/var/tmp").unwrap().map(|entry| entry.unwrap().path());
    assert!(left.map(|path| path.display().to_string()).all(|path| !path.starts_with(own.to_str().unwrap())));
}

/// Folders that a process of this number keeps things in.
fn kept_by(process: u32) -> usize {
    let all = fs::read_dir("/var/tmp").unwrap().map(|entry| entry.unwrap().file_name());
    let own = format!("shoal-mount-{process}-");
    all.filter(|name| name.to_str().is_some_and(|name| name.starts_with(&own))).count()
}

#[tokio::test]
async fn when_the_process_that_mounts_is_killed_the_other_one_unmounts() {
    if !available(Needs::FUSE) {
        return;
    }
    let case = case();
    let mut process = mounted(&[&case.image], &case.at, &case.folder.path().join("log")).await;
    let number = process.pid().unwrap();
    // Somebody reads on.
    let large = fs::File::open(case.at.join("large")).unwrap();
    process.kill9().await;
    let deadline = Process::readiness_deadline();
    while is_mounted(&case.at) {
        assert!(std::time::Instant::now() < deadline, "it stays mounted");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let want = fs::read(case.folder.path().join("made/middle/large")).unwrap();
    let mut last = vec![0; 5000];
    large.read_exact_at(&mut last, (want.len() - 5000) as u64).unwrap();
    assert!(last == want[want.len() - 5000..]);
    assert_eq!(kept_by(number), 1);
    drop(large);
    while kept_by(number) > 0 {
        assert!(std::time::Instant::now() < deadline, "its folder stays");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_is_left_when_both_processes_are_killed_goes_at_the_next_start() {
    if !available(Needs::FUSE) {
        return;
    }
    let case = case();
    let mut process = mounted(&[&case.image], &case.at, &case.folder.path().join("log")).await;
    let (number, server) = (process.pid().unwrap(), server_of(&process).unwrap());
    let signal = |signal: &str| {
        assert!(Command::new("kill").args([signal, &server.to_string()]).status().unwrap().success());
    };
    signal("-STOP");
    process.kill9().await;
    signal("-KILL");
    let deadline = Process::readiness_deadline();
    while Path::new(&format!("/proc/{server}/fd/0")).exists() {
        assert!(std::time::Instant::now() < deadline, "it does not die");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    // Another test may have cleared it by now.
    let other = case.folder.path().join("other");
    fs::create_dir(&other).unwrap();
    let mut next = mounted(&[&case.image], &other, &case.folder.path().join("log of the next")).await;
    assert!(!is_mounted(&case.at));
    assert_eq!(kept_by(number), 0);
    assert!(next.stop().await.success());
}

/// The process that serves the files of a `shoal mount`: its only child.
fn server_of(process: &Process) -> Option<u32> {
    let pid = process.pid().unwrap();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_process_that_serves_is_killed_again_and_again_no_reader_sees_an_error() {
    if !available(Needs::FUSE) {
        return;
    }
    let case = case();
    let process = mounted(&[&case.image], &case.at, &case.folder.path().join("log")).await;
    let want = fs::read(case.folder.path().join("made/middle/large")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..8)
        .map(|seed| {
            let (stop, want, at) = (stop.clone(), want.clone(), case.at.clone());
            std::thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut reads = 0;
                while !stop.load(Ordering::Relaxed) {
                    let file = fs::File::open(at.join("large")).unwrap();
                    // Out of the page cache, so that it is asked for again.
                    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
                    let start = random.usize(..want.len() - 5000);
                    let mut out = vec![0; 5000];
                    file.read_exact_at(&mut out, start as u64).unwrap();
                    assert!(out == want[start..start + 5000], "bytes at {start}");
                    assert!(fs::read_dir(at.join("plain")).unwrap().count() > 3);
                    reads += 1;
                }
                reads
            })
        })
        .collect();
    let mut killed = Vec::new();
    let deadline = Process::readiness_deadline();
    while killed.len() < 4 {
        assert!(std::time::Instant::now() < deadline, "killed {killed:?} only");
        let Some(server) = server_of(&process).filter(|server| !killed.contains(server)) else {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            continue;
        };
        // At any point of its life, from its first instructions on, but the mount's readers must come in between.
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        assert!(Command::new("kill").args(["-9", &server.to_string()]).status().unwrap().success());
        killed.push(server);
    }
    while server_of(&process).is_none_or(|server| killed.contains(&server)) {
        assert!(std::time::Instant::now() < deadline, "no successor");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
    let mut process = process;
    assert!(process.stop().await.success());
    assert!(!is_mounted(&case.at));
}

#[tokio::test]
async fn umount_ends_it() {
    if !available(Needs::FUSE) {
        return;
    }
    let case = case();
    let mut process = mounted(&[&case.image], &case.at, &case.folder.path().join("log")).await;
    assert!(Command::new("umount").arg(&case.at).status().unwrap().success());
    let deadline = Process::readiness_deadline();
    while process.is_alive() {
        assert!(std::time::Instant::now() < deadline, "it did not end");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn on_one_folder_one_image_is_mounted() {
    if !available(Needs::FUSE) {
        return;
    }
    let case = case();
    let mut process = mounted(&[&case.image], &case.at, &case.folder.path().join("log")).await;
    let again = Command::new(shoal_binary()).arg("mount").arg(&case.image).arg(&case.at).output().unwrap();
    let error = String::from_utf8_lossy(&again.stderr);
    assert!(!again.status.success() && error.contains("is mounted already"), "{error}");
    assert!(case.at.join("large").exists());
    assert!(process.stop().await.success());
    assert!(!is_mounted(&case.at));
}

#[test]
fn what_is_wrong_is_said() {
    if !available(Needs::FUSE) {
        return;
    }
    let case = case();
    let missing = case.folder.path().join("missing");
    let broken = case.folder.path().join("broken");
    fs::create_dir(&broken).unwrap();
    let other = case.image.replace(":v1", ":v2");
    for (image, at, said) in [
        (case.image.as_str(), &missing, "missing"),
        (&format!("oci:{}", broken.display()), &case.at, "is no OCI layout"),
        (&other, &case.at, "holds no image \"v2\""),
        ("alpine", &case.at, "no daemon's socket"),
    ] {
        let output = Command::new(shoal_binary()).arg("mount").arg(image).arg(at).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && error.contains(said), "{image}: {error}");
        assert!(!is_mounted(at));
    }
}
