//! Containers on images that are not there yet, while whatever serves them dies, or the disk is full.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

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
/// For what must come soon.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node on which the image was pulled lazily; another one has it whole.
struct Case {
    registry: Registry,
    image: Image,
    cluster: Cluster,
    fs: ShoalFs,
    kubelet: Kubelet,
}

impl Case {
    async fn start() -> Option<Self> {
        Self::start_with(None, "").await
    }

    /// The filesystem's disk has so many bytes, if that is said; both nodes have these tables.
    async fn start_with(disk: Option<u64>, toml: &str) -> Option<Self> {
        if !available(Needs::CONTAINERS) {
            return None;
        }
        let registry = Registry::start().await;
        let programs = programs(&["sh", "cat", "sha256sum"]);
        let image = ImageBuilder::new(21).tar(programs).layer(40 * MIB).build();
        registry.push(&image, REPOSITORY, "v1").await;
        let builder = Cluster::builder().nodes(2).registry(NAME, &registry.url());
        let cluster = builder.toml(toml).start().await;
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

/// Files that may be read by now, in their order: what lies behind them is asked for later.
struct Opened(AtomicUsize);

impl Opened {
    /// Returns once it may be read.
    async fn wait_for(&self, file: usize) {
        while self.0.load(Ordering::Relaxed) <= file {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Reads at random from those files of a layer, past the page cache, until it is told to stop. Says how often it did.
fn read_at_random(
    layer: PathBuf,
    files: &[(String, Vec<u8>)],
    seed: u64,
    opened: &Opened,
    stop: &AtomicBool,
) -> u64 {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut reads = 0;
    while !stop.load(Ordering::Relaxed) {
        let (path, want) = &files[random.usize(..opened.0.load(Ordering::Relaxed))];
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
    // So slow that what is opened is not there yet when it kills: it takes a second and more.
    let Some(mut case) = Case::start_with(None, "[limits]\nupload = \"3MiB\"").await else { return };
    // It would send in no time what the other node sends slowly.
    case.registry.stop().await;
    let seed = std::env::var("SHOAL_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("SHOAL_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let files = Arc::new(case.image.files(LARGE));
    let stop = Arc::new(AtomicBool::new(false));
    let opened = Arc::new(Opened(AtomicUsize::new(1)));
    // They run before anything is killed: to start one is no read, and is the kubelet's to repeat.
    let mut started = Vec::new();
    for _ in 0..2 {
        started.push(FileReader::start(&case.kubelet, REFERENCE).await);
    }
    let readers: Vec<_> = (0..READERS)
        .map(|number| {
            let (layer, files, stop) = (case.fs.layer(LARGE), files.clone(), stop.clone());
            let (opened, seed) = (opened.clone(), seed.wrapping_add(number));
            std::thread::spawn(move || read_at_random(layer, &files, seed, &opened, &stop))
        })
        .collect();
    let mut containers = Vec::new();
    for mut container in started {
        let (files, opened) = (files.clone(), opened.clone());
        containers.push(tokio::spawn(async move {
            for (number, (path, content)) in files.iter().enumerate() {
                opened.wait_for(number).await;
                let answer = container.sum(&format!("/{path}")).await;
                assert!(answer.starts_with(&sha256(content)), "{answer}");
            }
            container.end().await;
        }));
    }
    let layer = case.image.here().layers[LARGE].digest;
    // What serves may die five times in a minute; then it is not started any more.
    let mut victims = [true, true, true, true, false, false, false];
    random.shuffle(&mut victims);
    assert!(victims.len() < files.len());
    for (number, serves) in victims.into_iter().enumerate() {
        opened.0.store(number + 1, Ordering::Relaxed);
        let bytes: usize = files[..=number].iter().map(|(_, content)| content.len()).sum();
        // At least: of the spans that are there some lie behind what was opened.
        let missing = |fs: &ShoalFs| (bytes as u64).saturating_sub(fs.local_bytes(&layer));
        // Every second time when something came, and more is to come: that of the time before, at least.
        let before = case.fs.local_bytes(&layer);
        let deadline = Instant::now() + Duration::from_secs(60);
        while number % 2 == 1 && case.fs.local_bytes(&layer) == before {
            assert!(Instant::now() < deadline, "nothing comes");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tokio::time::sleep(Duration::from_millis(random.u64(..if number % 2 == 0 { 250 } else { 10 }))).await;
        let missing = missing(&case.fs);
        println!(
            "killing {} with {missing} bytes missing",
            if serves { "what serves" } else { "the daemon" }
        );
        assert!(missing > 0, "nobody waits for anything, so nothing is tested");
        if serves {
            case.fs.kill_server().await;
        } else {
            case.cluster.node_mut(1).kill9().await;
            tokio::time::sleep(Duration::from_millis(random.u64(..200))).await;
            case.cluster.node_mut(1).start().await;
        }
    }
    opened.0.store(files.len(), Ordering::Relaxed);
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
    let Some(mut case) = Case::start().await else { return };
    let files = case.image.files(LARGE);
    let mut reader = FileReader::start(&case.kubelet, REFERENCE).await;
    let (here, missing) = (&files[1], &files[3]);
    assert!(reader.sum(&format!("/{}", here.0)).await.starts_with(&sha256(&here.1)));
    case.cluster.node_mut(0).kill9().await;
    case.registry.stop().await;
    reader.ask(&format!("/{}", missing.0)).await;
    // A read gives up after 30 s, and whoever reads a file after its first error. The kernel reads ahead first, tells
    // nobody of that error, and asks again: that is answered at once.
    let answer = tokio::time::timeout(Duration::from_secs(50), reader.answer()).await.expect("it is stuck");
    assert_eq!(answer, "failed");
    assert!(reader.sum(&format!("/{}", here.0)).await.starts_with(&sha256(&here.1)), "what is here is read");
    let layer = case.image.here().layers[LARGE].digest.to_string();
    assert!(case.fs.output().contains(&format!("nobody can serve {layer}")), "it is logged");

    case.registry.start_again().await;
    let read_again = async {
        loop {
            let answer = reader.sum(&format!("/{}", missing.0)).await;
            if answer != "failed" {
                return answer;
            }
        }
    };
    let answer = tokio::time::timeout(PATIENCE, read_again).await.expect("it reads again");
    assert!(answer.starts_with(&sha256(&missing.1)), "of the registry: {answer}");
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
    let Some(case) = Case::start_with(Some(16 * MIB), "").await else { return };
    let mut reader = FileReader::start(&case.kubelet, REFERENCE).await;
    for (path, content) in case.image.files(LARGE) {
        let answer = reader.sum(&format!("/{path}")).await;
        assert!(answer.starts_with(&sha256(&content)), "{answer}");
    }
    let disk = rustix::fs::statvfs(case.fs.folder().join("state")).unwrap();
    assert!(disk.f_bavail * disk.f_frsize < MIB, "the disk is not full, so nothing was tested");
    reader.end().await;
    case.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_on_the_same_folders_is_refused_and_harms_nothing() {
    if !available(Needs::FUSE) {
        return;
    }
    let node = tempfile::tempdir().unwrap();
    let mut fs = ShoalFs::start(&node.path().join("lazy.sock"), &[]).await;
    let mounts = fs.mounts();
    let second = fs.start_second().await;
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{said}");
    assert!(said.contains("is it running twice?"), "{said}");
    assert_eq!(fs.mounts(), mounts);
    assert!(std::os::unix::net::UnixStream::connect(fs.socket()).is_ok(), "its socket is its own");
    fs.stop().await;
    assert_eq!(fs.mounts(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_end_it_leaves_no_empty_folders_in_place_of_layers() {
    let Some(mut case) = Case::start().await else { return };
    let layers = case.fs.folder().join("m/x");
    let names = || std::fs::read_dir(&layers).unwrap().count();
    let files = case.image.files(LARGE);
    let (path, content) = &files[1];
    // Without EROFS on files there are none.
    let on_erofs = layers.join(LARGE.to_string());
    let held = on_erofs.exists().then(|| File::open(on_erofs.join(path)).unwrap());
    let read_on = async {
        let deadline = Instant::now() + PATIENCE;
        while names() > 0 {
            assert!(Instant::now() < deadline, "an empty folder stands for a layer");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        if let Some(held) = held {
            let mut got = vec![0; READ];
            tokio::task::block_in_place(|| held.read_exact_at(&mut got, 0)).unwrap();
            assert!(got == content[..READ], "who still has it reads on");
        }
    };
    futures_util::join!(case.fs.stop(), read_on);
    assert_eq!(case.fs.mounts(), [""; 0]);
    case.fs.start_again().await;
    case.end().await;
}
