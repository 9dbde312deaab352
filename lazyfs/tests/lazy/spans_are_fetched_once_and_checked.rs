//! Each span comes once, whoever waits for it, and only right bytes are ever read.

use std::sync::Arc;
use std::time::Duration;

use shoal_lazyfs::fs::Ino;
use shoal_lazyfs::images::Images;
use shoal_lazyfs::index::{Entrance, SpanIndex, WindowRef};
use shoal_lazyfs::source::{Giver, Urgency};
use shoal_lazyfs::span_cache::{Layer, Patience, ReadError, SpanCache};

use super::samples::{self, SPAN};
use super::served_again;
use super::source::{Mood, Source};

struct Case {
    tar: Vec<u8>,
    source: Arc<Source>,
    layer: Arc<Layer>,
    cache: Arc<SpanCache>,
    _folder: tempfile::TempDir,
}

async fn case(deadline: Duration) -> Case {
    let tar = samples::tar(11, 2_000_000);
    let source = Arc::new(Source::new());
    let digest = source.add(samples::gzip(&tar, 6), SPAN);
    let folder = tempfile::tempdir().unwrap();
    let cache = SpanCache::open(folder.path(), source.clone(), Patience { deadline }).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    Case { tar, source, layer, cache, _folder: folder }
}

const LONG: Duration = Duration::from_secs(600);
/// More than this machine needs for some spans from memory.
const SPAN_COMES: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);

async fn read(layer: &Arc<Layer>, start: usize, len: usize) -> Result<Vec<u8>, ReadError> {
    let mut out = vec![0xee; len];
    layer.read(start as u64, &mut out, Urgency::Demand).await.map(|()| out)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_range_is_the_tars_and_what_is_there_is_not_asked_for_again() {
    let case = case(LONG).await;
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..200 {
        let start = random.usize(..case.tar.len());
        let len = random.usize(..300_000).min(case.tar.len() - start);
        assert!(
            read(&case.layer, start, len).await.unwrap() == case.tar[start..start + len],
            "{start} {len}"
        );
    }
    assert!(read(&case.layer, 0, case.tar.len()).await.unwrap() == case.tar);
    assert_eq!(case.source.asked(), case.layer.index().spans.len());
    let mut out = vec![0; case.tar.len()];
    assert!(case.layer.read_local(0, &mut out).unwrap() && out == case.tar);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_on_in_a_file_finds_the_next_span_there() {
    let mut content = vec![0; 16 * SPAN as usize];
    fastrand::Rng::with_seed(3).fill(&mut content);
    let mut tar = tar::Builder::new(Vec::new());
    for name in ["file", "next"] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, name, &*content).unwrap();
    }
    let source = Arc::new(Source::new());
    let layer = source.add(samples::gzip(&tar.into_inner().unwrap(), 6), SPAN);
    let folder = tempfile::tempdir().unwrap();
    let images = Images::open(folder.path(), source.clone(), Patience::default()).await.unwrap();
    let slot = images.add(&[layer]).await.unwrap()[0];
    let root = images.fs().lookup(Ino::ROOT, slot.0.to_string().as_bytes()).unwrap().unwrap();
    let file = images.fs().lookup(root.ino, b"file").unwrap().unwrap();
    let cache = images.cache().clone();
    let read = async |span: u64| {
        let read = images.fs().read(file.ino, span * SPAN, 4096).unwrap();
        let at = (span * SPAN) as usize;
        assert!(read.fetch().await.unwrap() == content[at..at + 4096]);
    };
    // Here and there: nobody reads on.
    for span in [1, 8, 4, 12] {
        read(span).await;
    }
    assert_eq!((source.asked(), cache.counts().spans_prefetched), (4, 0));
    let until_ahead = async |spans| {
        while cache.counts().spans_prefetched < spans {
            tokio::task::yield_now().await;
        }
    };
    read(5).await;
    until_ahead(1).await;
    // And so on, though none of these reads fetches anything itself.
    let mut out = vec![0; 4096];
    let reader = async {
        for at in (5 * SPAN..7 * SPAN + SPAN / 2).step_by(4096) {
            while !images.fs().read(file.ino, at, 4096).unwrap().local(&mut out).unwrap() {
                tokio::task::yield_now().await;
            }
            assert!(out == content[at as usize..at as usize + 4096]);
        }
    };
    tokio::time::timeout(SPAN_COMES, reader).await.expect("the next span is fetched");
    // A span can be read before it is counted. Five reads fetched for themselves.
    let ahead = source.asked() as u64 - 5;
    until_ahead(ahead).await;
    // The file's end is the end, though another file follows.
    let at = 13 * SPAN as usize;
    let rest = images.fs().read(file.ino, at as u64, content.len() - at).unwrap();
    assert!(rest.fetch().await.unwrap() == content[at..]);
    read(0).await;
    assert_eq!(cache.counts().spans_prefetched, ahead);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_beyond_the_tars_end_is_an_error() {
    let case = case(LONG).await;
    assert!(read(&case.layer, case.tar.len() - 5, 10).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_a_span_wait_for_one_fetch() {
    let case = case(LONG).await;
    case.source.becomes(Mood::Waits);
    let readers: Vec<_> = (0..64)
        .map(|_| {
            let layer = case.layer.clone();
            tokio::spawn(async move { read(&layer, 10, 1000).await })
        })
        .collect();
    while case.source.asked() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(!case.layer.read_local(10, &mut [0; 1000]).unwrap());
    case.source.gate.add_permits(1);
    for reader in readers {
        assert!(reader.await.unwrap().unwrap() == case.tar[10..1010]);
    }
    assert_eq!(case.source.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_ends_though_its_reader_went_away() {
    let case = case(LONG).await;
    case.source.becomes(Mood::Waits);
    let layer = case.layer.clone();
    let reader = tokio::spawn(async move { read(&layer, 10, 1000).await });
    while case.source.asked() == 0 {
        tokio::task::yield_now().await;
    }
    reader.abort();
    case.source.gate.add_permits(1);
    assert!(read(&case.layer, 10, 1000).await.unwrap() == case.tar[10..1010]);
    assert_eq!(case.source.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_overtakes_the_fill() {
    let case = case(LONG).await;
    case.source.becomes(Mood::FillWaits);
    let layer = case.layer.clone();
    let fill = tokio::spawn(async move { layer.fill(SpanIndex(0)).await });
    while case.source.asked() == 0 {
        tokio::task::yield_now().await;
    }
    assert!(read(&case.layer, 0, 1000).await.unwrap() == case.tar[..1000]);
    case.source.gate.add_permits(1);
    fill.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_an_error_and_the_next_read_tries_again() {
    let case = case(LONG).await;
    case.source.becomes(Mood::Lies);
    for _ in 0..2 {
        let error = read(&case.layer, 0, 1000).await.unwrap_err();
        assert!(matches!(error, ReadError::Span { .. }), "{error}");
    }
    assert_eq!(case.layer.spans_present(), 0);
    case.source.becomes(Mood::Serves);
    assert!(read(&case.layer, 0, 1000).await.unwrap() == case.tar[..1000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_span_only_what_was_wrong_is_asked_for_again() {
    let case = case(LONG).await;
    let spans = &case.layer.index().spans;
    let windowed = |span: &SpanIndex| {
        matches!(
            spans.get(*span).unwrap().entrance,
            Entrance::Block { window: WindowRef { len: 1.., .. }, .. }
        )
    };
    let mut starts =
        spans.indexes().filter(windowed).map(|span| spans.tar_range(span).unwrap().start as usize);
    let (at, next) = (starts.next().unwrap(), starts.next().unwrap());
    // The first answer for the window is another file's.
    let giver = |number: usize| Giver(number as u64);
    let windows = case.source.asked_of_indexes();
    case.source.gives_first([bytes::Bytes::from(vec![7; 1 << 20])]);
    assert!(read(&case.layer, at, 1000).await.unwrap() == case.tar[at..at + 1000]);
    assert_eq!(case.source.asked(), 1, "the layer's bytes were right");
    assert_eq!(case.source.blamed(), [[giver(1000 + windows)]]);
    // And the other way round.
    let at = next;
    case.source.lies_once();
    let windows = case.source.asked_of_indexes();
    assert!(read(&case.layer, at, 1000).await.unwrap() == case.tar[at..at + 1000]);
    assert_eq!(case.source.asked(), 3);
    assert_eq!(case.source.asked_of_indexes(), windows + 1, "the window was right");
    assert_eq!(case.source.blamed()[1..], [[giver(1)]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_readers_got_is_counted() {
    let case = case(LONG).await;
    let head = case.cache.counts().bytes_fetched;
    assert!(head > 0);
    read(&case.layer, 0, 1000).await.unwrap();
    case.layer.fill(SpanIndex(1)).await.unwrap();
    case.source.lies_once();
    let third = case.layer.index().spans.tar_range(SpanIndex(2)).unwrap().start as usize;
    read(&case.layer, third, 1).await.unwrap();
    case.source.becomes(Mood::Lies);
    read(&case.layer, case.tar.len() - 1, 1).await.unwrap_err();
    let counts = case.cache.counts();
    assert_eq!((counts.spans_on_demand, counts.spans_filled, counts.spans_from_disk), (2, 1, 0));
    assert_eq!((counts.spans_wrong, counts.spans_failed), (4, 1));
    assert!(counts.bytes_fetched > head + 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nobody_to_serve_a_read_ends_at_its_deadline_and_the_next_one_recovers() {
    let case = case(SHORT).await;
    let last = case.tar.len() - 1000;
    for (mood, start) in [(Mood::Gone, 0), (Mood::Waits, last)] {
        case.source.becomes(mood);
        let error = read(&case.layer, start, 1000).await.unwrap_err();
        assert!(matches!(error, ReadError::Source { .. }), "{error}");
    }
    case.source.becomes(Mood::Serves);
    assert!(served_again(async || read(&case.layer, 0, 1000).await).await == case.tar[..1000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_at_once_does_not_wait_for_a_second_deadline() {
    let case = case(Duration::from_secs(1)).await;
    case.source.becomes(Mood::Gone);
    read(&case.layer, 0, 1000).await.unwrap_err();
    let asked = case.source.asked();
    // As the kernel does, for one read of one reader.
    let error = read(&case.layer, 0, 1000).await.unwrap_err();
    assert!(matches!(error, ReadError::Source { .. }), "{error}");
    assert_eq!(case.source.asked(), asked, "a read that had failed just now was tried again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_waits_until_bytes_can_be_had_again() {
    let case = case(LONG).await;
    case.source.becomes(Mood::Gone);
    let layer = case.layer.clone();
    let reader = tokio::spawn(async move { read(&layer, 0, 1000).await });
    while case.source.asked() < 3 {
        tokio::task::yield_now().await;
    }
    case.source.becomes(Mood::Serves);
    assert!(reader.await.unwrap().unwrap() == case.tar[..1000]);
}
