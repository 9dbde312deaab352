//! A cache keeps to its bound: what nobody uses goes, what was used longest ago first, and what is used stays.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use shoal_lazyfs::fill::Pace;
use shoal_lazyfs::index::SpanIndex;
use shoal_lazyfs::source::Urgency;
use shoal_lazyfs::span_cache::{FillError, Layer, Patience, SpanCache};
use shoal_proto::Digest;

use super::fill;
use super::samples::{self, SPAN};
use super::source::{Mood, Source};
use super::spans_outlast_the_process::file;

/// Bytes of each layer's tar.
const SIZE: usize = 2_000_000;
/// For one layer and a half.
const LIMIT: u64 = 3_000_000;

struct Case {
    source: Arc<Source>,
    folder: tempfile::TempDir,
    tars: Vec<Vec<u8>>,
    layers: Vec<Digest>,
}

impl Case {
    fn new(layers: u64) -> Self {
        let source = Arc::new(Source::new());
        let tars: Vec<_> = (0..layers).map(|seed| samples::tar(50 + seed, SIZE)).collect();
        let layers = tars.iter().map(|tar| source.add(samples::gzip(tar, 6), SPAN)).collect();
        Self { source, folder: tempfile::tempdir().unwrap(), tars, layers }
    }

    fn open(&self, limit: u64) -> Arc<SpanCache> {
        let cache = SpanCache::open(self.folder.path(), self.source.clone(), Patience::default()).unwrap();
        cache.limit_disk(limit);
        cache
    }

    /// As if the layer had been used last at this second.
    fn was_used(&self, layer: usize, second: i64) {
        let time = Timespec { tv_sec: second, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        let folder = file(self.folder.path(), &self.layers[layer], "");
        rustix::fs::utimensat(CWD, &folder, &times, AtFlags::empty()).unwrap();
    }

    /// Numbers of the layers that are on the disk.
    fn held(&self, cache: &SpanCache) -> Vec<usize> {
        (0..self.layers.len()).filter(|&at| cache.holds(&self.layers[at])).collect()
    }

    async fn whole(&self, cache: &SpanCache, layer: usize) -> Arc<Layer> {
        let opened = cache.layer(&self.layers[layer]).await.unwrap();
        for span in opened.index().spans.indexes() {
            opened.fill(span).await.unwrap();
        }
        opened
    }
}

fn on_disk(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    let sizes = entries.map(|entry| {
        let below = if entry.file_type().unwrap().is_dir() { on_disk(&entry.path()) } else { 0 };
        below + entry.metadata().unwrap().blocks() * 512
    });
    sizes.sum()
}

async fn fill_until_it_stops(layer: &Arc<Layer>) -> Option<FillError> {
    for span in layer.index().spans.indexes() {
        if let Err(error) = layer.fill(span).await {
            return Some(error);
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fill_stops_at_the_bound_and_demand_goes_on() {
    let case = Case::new(1);
    let cache = case.open(1_000_000);
    let layer = cache.layer(&case.layers[0]).await.unwrap();
    let error = fill_until_it_stops(&layer).await.unwrap();
    assert!(matches!(error, FillError::NoRoom), "{error}");
    let used = on_disk(&case.folder.path().join("layers"));
    assert!(used > 500_000 && used <= 1_000_000, "{used} bytes");
    assert!(cache.disk_used() >= used);
    let asked = case.source.asked();
    for _ in 0..2 {
        let mut out = vec![0; SIZE];
        layer.read(0, &mut out, Urgency::Demand).await.unwrap();
        assert!(out == case.tars[0][..SIZE]);
    }
    let spans = layer.index().spans.len();
    assert!(case.source.asked() - asked < spans, "what a reader waited for is kept");
    assert!(layer.spans_present() == case.source.asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_stays_and_the_rest_goes_for_it() {
    let case = Case::new(3);
    let cache = case.open(LIMIT);
    let first = case.whole(&cache, 0).await;
    let second = cache.layer(&case.layers[1]).await.unwrap();
    let error = fill_until_it_stops(&second).await.unwrap();
    assert!(matches!(error, FillError::NoRoom), "{error}");
    assert_eq!(case.held(&cache), [0, 1], "both are used");
    drop(first);
    assert!(fill_until_it_stops(&second).await.is_none());
    assert_eq!(case.held(&cache), [1]);
    assert!(on_disk(&case.folder.path().join("layers")) <= LIMIT);
    let mut out = vec![0; SIZE];
    assert!(second.read_local(0, &mut out).unwrap() && out == case.tars[1][..SIZE]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_longest_ago_goes_first_over_restarts_too() {
    let case = Case::new(4);
    let cache = case.open(u64::MAX);
    for layer in 0..3 {
        case.whole(&cache, layer).await;
    }
    drop(cache);
    for (layer, second) in [(0, 300), (1, 100), (2, 200)] {
        case.was_used(layer, second);
    }
    // To open it is a use, and so is to close it.
    let cache = case.open(u64::MAX);
    let used = cache.layer(&case.layers[1]).await.unwrap();
    case.was_used(1, 50);
    drop((used, cache));
    let cache = case.open(3 * SIZE as u64 + 1_000_000);
    let fourth = case.whole(&cache, 3).await;
    assert_eq!(case.held(&cache), [0, 1, 3]);
    cache.limit_disk(2 * SIZE as u64 + 1_000_000);
    fourth.fill(SpanIndex(0)).await.unwrap();
    case.source.becomes(Mood::Gone);
    drop((fourth, cache));
    let cache = case.open(2 * SIZE as u64 + 1_000_000);
    while case.held(&cache).len() > 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(case.held(&cache), [1, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removal_that_was_cut_short_leaves_nothing_wrong() {
    let case = Case::new(1);
    let digest = &case.layers[0];
    // In this order they go, and a loss of power may change it.
    for gone in [&["head"][..], &["head", "spans"], &["head", "tar"], &["tar"], &["spans"], &["tar", "spans"]]
    {
        let cache = case.open(u64::MAX);
        let layer = case.whole(&cache, 0).await;
        layer.prove().await.unwrap();
        drop((layer, cache));
        for name in gone {
            fs::remove_file(file(case.folder.path(), digest, name)).unwrap();
        }
        let cache = case.open(u64::MAX);
        assert_eq!(cache.holds(digest), !gone.contains(&"head"));
        if !cache.holds(digest) {
            assert_eq!(on_disk(&case.folder.path().join("layers")), 0, "{gone:?}");
        }
        let layer = cache.layer(digest).await.unwrap();
        let mut out = vec![0; SIZE];
        layer.read(0, &mut out, Urgency::Demand).await.unwrap();
        assert!(out == case.tars[0][..SIZE], "{gone:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn that_an_index_lies_is_not_forgotten_for_lack_of_room() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let tar = samples::tar(61, SIZE);
    let forged = source.add_forged(samples::gzip(&tar, 6), SPAN);
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    fill(vec![cache.layer(&forged).await.unwrap()], Pace::EAGER).await;
    cache.remove(&forged).await.unwrap();
    assert!(on_disk(&folder.path().join("layers")) < 100_000);
    drop(cache);
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    cache.layer(&forged).await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn the_fill_goes_on_when_there_is_room() {
    let case = Case::new(2);
    let cache = case.open(LIMIT);
    let first = case.whole(&cache, 0).await;
    let second = cache.layer(&case.layers[1]).await.unwrap();
    let task = tokio::spawn(fill(vec![second.clone()], Pace::EAGER));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert!(!task.is_finished() && !second.is_proved());
    drop(first);
    task.await.unwrap();
    assert!(second.is_proved());
}
