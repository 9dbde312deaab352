//! Containers on images that are not there yet, while whatever serves them dies, or the disk is full.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use shoal_tests::{
    Cluster, FileReader, Image, ImageBuilder, Kubelet, Needs, Registry, ShoalFs, available, programs,
};

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";
const REFERENCE: &str = "registry.test/library/app:v1";
const MIB: u64 = 1 << 20;
/// The layer with files that do not compress.
const LARGE: usize = 1;
const READERS: u64 = 64;
/// Bytes of one read at random.
const READ: usize = 20_000;

/// A node on which the image was pulled lazily; another one has it whole.
struct Case {
    registry: Registry,
    image: Image,
    cluster: Cluster,
    fs: ShoalFs,
    kubelet: Kubelet,
}

impl Case {
    /// The filesystem's disk has so many bytes, if that is said.
    async fn start(disk: Option<u64>) -> Option<Self> {
        if !available(Needs::CONTAINERS) {
            return None;
        }
        let registry = Registry::start().await;
        let programs = programs(&["sh", "cat", "sha256sum"]);
        let image = ImageBuilder::new(21).tar(programs).layer(40 * MIB).build();
        registry.push(&image, REPOSITORY, "v1").await;
        let cluster = Cluster::builder().nodes(2).registry(NAME, &registry.url()).start().await;
        cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
        cluster.node(0).indexed(2).await;
        let (socket, options) = (cluster.node(1).lazy_socket(), ["--fill", "never"]);
        let fs = match disk {
            Some(bytes) => ShoalFs::start_on_disk_of(bytes, &socket, &options).await,
            None => ShoalFs::start(&socket, &options).await,
        };
        let mut kubelet = Kubelet::start(&fs.socket(), cluster.node(1).mirror()).await;
        kubelet.pull(REFERENCE).await.unwrap();
        Some(Self { registry, image, cluster, fs, kubelet })
    }

    /// Nothing stays mounted.
    async fn end(mut self) {
        self.kubelet.remove(REFERENCE).await;
        assert_eq!(self.kubelet.snapshots().await, [""; 0]);
        self.kubelet.stop().await;
        self.fs.stop().await;
        assert_eq!(self.fs.mounts(), [""; 0]);
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads at random from files of a layer, past the page cache, until it is told to stop. Says how often it did.
fn read_at_random(layer: PathBuf, files: &[(String, Vec<u8>)], seed: u64, stop: &AtomicBool) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut reads = 0;
    while !stop.load(Ordering::Relaxed) {
        let (path, want) = &files[random.usize(..files.len())];
        let file = File::open(layer.join(path)).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let start = random.usize(..want.len() - READ);
        let mut got = vec![0; READ];
        file.read_exact_at(&mut got, start as u64)
            .unwrap_or_else(|error| panic!("{path} at {start}: {error}"));
        assert!(got == want[start..start + READ], "{path} at {start}");
        reads += 1;
    }
    reads
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_random_points_under_load_nobody_sees_an_error() {
    let Some(mut case) = Case::start(None).await else { return };
    let seed = std::env::var("SHOAL_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("SHOAL_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let files = Arc::new(case.image.files(LARGE));
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..READERS)
        .map(|number| {
            let (layer, files, stop) = (case.fs.layer(LARGE), files.clone(), stop.clone());
            let seed = seed.wrapping_add(number);
            std::thread::spawn(move || read_at_random(layer, &files, seed, &stop))
        })
        .collect();
    let mut containers = Vec::new();
    for _ in 0..2 {
        let (mut container, files) = (FileReader::start(&case.kubelet, REFERENCE), files.clone());
        containers.push(tokio::spawn(async move {
            for (path, content) in files.iter() {
                let answer = container.sum(&format!("/{path}")).await;
                assert!(answer.starts_with(&sha256(content)), "{answer}");
            }
            container.end().await;
        }));
    }
    // What serves may die five times in a minute; then it is not started any more.
    let mut victims = [true, true, true, true, false, false, false];
    random.shuffle(&mut victims);
    for serves in victims {
        tokio::time::sleep(Duration::from_millis(random.u64(..400))).await;
        if serves {
            case.fs.kill_server().await;
        } else {
            case.cluster.node_mut(1).kill9().await;
            tokio::time::sleep(Duration::from_millis(random.u64(..200))).await;
            case.cluster.node_mut(1).start().await;
        }
    }
    for container in containers {
        container.await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.join().unwrap() > 0);
    }
    case.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_every_holder_gone_a_container_gets_an_error_in_time_and_reads_on_when_one_is_back() {
    let Some(mut case) = Case::start(None).await else { return };
    let files = case.image.files(LARGE);
    let mut reader = FileReader::start(&case.kubelet, REFERENCE);
    let (here, missing) = (&files[1], &files[3]);
    assert!(reader.sum(&format!("/{}", here.0)).await.starts_with(&sha256(&here.1)));
    case.cluster.node_mut(0).kill9().await;
    case.registry.stop().await;
    reader.ask(&format!("/{}", missing.0)).await;
    // A read gives up after 30 s, and whoever reads a file after its first error.
    let answer = tokio::time::timeout(Duration::from_secs(60), reader.answer()).await.expect("it is stuck");
    assert_eq!(answer, "failed");
    assert!(reader.sum(&format!("/{}", here.0)).await.starts_with(&sha256(&here.1)), "what is here is read");
    let layer = case.image.here().layers[LARGE].digest.to_string();
    assert!(case.fs.output().contains(&format!("nobody can serve {layer}")), "it is logged");

    case.registry.start_again().await;
    assert!(reader.sum(&format!("/{}", missing.0)).await.starts_with(&sha256(&missing.1)), "of the registry");
    case.cluster.node_mut(0).start().await;
    for (path, content) in &files {
        let answer = reader.sum(&format!("/{path}")).await;
        assert!(answer.starts_with(&sha256(content)), "{answer}");
    }
    reader.end().await;
    case.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_a_container_reads_all_of_a_larger_image() {
    let Some(case) = Case::start(Some(16 * MIB)).await else { return };
    let mut reader = FileReader::start(&case.kubelet, REFERENCE);
    for (path, content) in case.image.files(LARGE) {
        let answer = reader.sum(&format!("/{path}")).await;
        assert!(answer.starts_with(&sha256(&content)), "{answer}");
    }
    let disk = rustix::fs::statvfs(case.fs.folder().join("state")).unwrap();
    assert!(disk.f_bavail * disk.f_frsize < MIB, "the disk is not full, so nothing was tested");
    reader.end().await;
    case.end().await;
}
