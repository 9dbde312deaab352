//! Many readers through the kernel while spans come slowly, wrong, or not at all.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use shoal_lazyfs::span_cache::Patience;

use super::samples;
use super::served::{Overlay, Served, can_mount};
use super::served_again;
use super::source::{Mood, Source};

const SHORT: Patience = Patience { deadline: Duration::from_millis(300) };

struct Case {
    content: Vec<u8>,
    source: Arc<Source>,
    file: PathBuf,
    served: Served,
    _folder: tempfile::TempDir,
}

/// One file of 4 MB that does not compress, in spans of 64 KiB.
async fn case(patience: Patience) -> Option<Case> {
    if !can_mount() {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut content = vec![0; 4_000_000];
    fastrand::Rng::with_seed(21).fill(&mut content);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", &*content).unwrap();
    let source = Arc::new(Source::new());
    let layer = source.add(samples::gzip(&tar.into_inner().unwrap(), 6), samples::SPAN);
    let served = Served::new(folder.path(), source.clone(), patience).await;
    served.images.add(&[layer]).await.unwrap();
    let file = served.at.join("0/file");
    Some(Case { content, source, file, served, _folder: folder })
}

/// Reads in a thread, since the kernel lets it wait.
async fn read(file: &Path, at: usize, len: usize) -> std::io::Result<Vec<u8>> {
    let file = file.to_owned();
    let read = move || {
        let mut out = vec![0; len];
        File::open(&file)?.read_exact_at(&mut out, at as u64).map(|()| out)
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_readers_at_random_while_spans_arrive() {
    let Some(case) = case(Patience { deadline: Duration::from_secs(600) }).await else { return };
    case.source.becomes(Mood::Waits);
    let readers: Vec<_> = (0..64)
        .map(|seed| {
            let (file, content) = (case.file.clone(), case.content.clone());
            std::thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let file = File::open(file).unwrap();
                for _ in 0..50 {
                    let len = random.usize(1..200_000);
                    let at = random.usize(..content.len() - len);
                    let mut out = vec![0; len];
                    file.read_exact_at(&mut out, at as u64).unwrap();
                    assert!(out == content[at..at + len], "{len} bytes at {at}");
                }
            })
        })
        .collect();
    // One span after the other, each when somebody waits for it.
    let mut asked = 0;
    while readers.iter().any(|reader| !reader.is_finished()) {
        if case.source.asked() > asked {
            asked += 1;
            case.source.gate.add_permits(1);
        }
        tokio::task::yield_now().await;
    }
    for reader in readers {
        reader.join().unwrap();
    }
    let spans = case.content.len().div_ceil(samples::SPAN as usize) + 1;
    assert!(case.source.asked() <= spans, "{} fetches", case.source.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_that_is_wrong_is_an_error_and_never_wrong_bytes() {
    let Some(case) = case(Patience::default()).await else { return };
    case.source.becomes(Mood::Lies);
    for _ in 0..2 {
        let error = read(&case.file, 100_000, 5000).await.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
    }
    case.source.becomes(Mood::Serves);
    assert!(read(&case.file, 100_000, 5000).await.unwrap() == case.content[100_000..105_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_every_holder_gone_a_read_fails_at_its_deadline_and_recovers() {
    let Some(case) = case(SHORT).await else { return };
    assert!(read(&case.file, 0, 100).await.unwrap() == case.content[..100]);
    case.source.becomes(Mood::Gone);
    let error = read(&case.file, 3_000_000, 100).await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
    assert!(read(&case.file, 0, 100).await.unwrap() == case.content[..100], "what is here is served");
    case.source.becomes(Mood::Serves);
    let served = served_again(async || read(&case.file, 3_000_000, 100).await).await;
    assert!(served == case.content[3_000_000..3_000_100]);
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_who_wait_hold_up_nobody_else() {
    let Some(case) = case(Patience { deadline: Duration::from_secs(600) }).await else { return };
    assert!(read(&case.file, 0, 1000).await.unwrap() == case.content[..1000]);
    let asked = case.source.asked();
    case.source.becomes(Mood::Waits);
    let waiting: Vec<_> = (1..20)
        .map(|number| {
            let file = case.file.clone();
            tokio::spawn(async move { read(&file, number * 200_000, 1000).await })
        })
        .collect();
    while case.source.asked() < asked + 16 {
        tokio::task::yield_now().await;
    }
    // All threads that answer the kernel are free: names and local bytes come at once.
    rustix::fs::fadvise(File::open(&case.file).unwrap(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert!(read(&case.file, 0, 1000).await.unwrap() == case.content[..1000]);
    assert_eq!(fs::read_dir(case.served.at.join("0")).unwrap().count(), 1);
    case.source.gate.add_permits(1000);
    for (number, reader) in (1..20).zip(waiting) {
        assert!(reader.await.unwrap().unwrap() == case.content[number * 200_000..][..1000]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unmounting_while_somebody_reads_leaves_nothing_behind() {
    let Some(case) = case(Patience { deadline: Duration::from_secs(600) }).await else { return };
    case.source.becomes(Mood::Waits);
    let lower = [case.served.at.join("e"), case.served.at.join("0")];
    let over = case.served.at.with_file_name("over");
    let mounted = Overlay::new(&lower, over.clone());
    let file = over.join("file");
    let reader = tokio::spawn(async move { read(&file, 2_000_000, 1000).await });
    while case.source.asked() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!mounted.end(), "somebody reads");
    case.source.gate.add_permits(1000);
    assert!(reader.await.unwrap().unwrap() == case.content[2_000_000..2_001_000]);
    let at = case.served.at.clone();
    tokio::task::spawn_blocking(move || drop(case)).await.unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(at.to_str().unwrap()) && !mounts.contains(over.to_str().unwrap()));
}
