//! In the background layers become whole, and what their indexes say is then proved or refused.

use std::sync::Arc;
use std::time::Duration;

use shoal_lazyfs::fill::{Pace, fill};
use shoal_lazyfs::source::Urgency;
use shoal_lazyfs::span_cache::{CacheError, Patience, ReadError, SpanCache};

use super::samples::{self, SPAN};
use super::source::{Mood, Source};

#[tokio::test(flavor = "multi_thread")]
async fn a_filled_layer_needs_nobody_and_is_proved_once() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let tar = samples::tar(31, 1_000_000);
    let digest = source.add(samples::gzip(&tar, 6), SPAN);
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    fill(vec![layer.clone()], Pace::EAGER).await;
    assert!(layer.is_proved());
    assert_eq!(layer.spans_present(), layer.index().spans.len());
    let mut out = vec![0; tar.len()];
    assert!(layer.read_local(0, &mut out).unwrap() && out == tar);
    drop((layer, cache));
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    assert!(cache.layer(&digest).await.unwrap().is_proved());
}

#[tokio::test(start_paused = true)]
async fn it_begins_when_no_reader_waited_for_a_while() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let tar = samples::tar(32, 1_000_000);
    let digest = source.add(samples::gzip(&tar, 6), SPAN);
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    let second = Duration::from_secs(1);
    let pace = Pace { quiet: 5 * second, latest: 8 * second };
    let task = tokio::spawn(fill(vec![layer.clone()], pace));
    for read in 0..3 {
        tokio::time::sleep(2 * second).await;
        layer.read(read * 200_000, &mut [0; 10], Urgency::Demand).await.unwrap();
        assert_eq!(source.asked(), read as usize + 1, "only what was read");
    }
    // Eight seconds after the begin it does not wait any longer.
    let begun = tokio::time::Instant::now();
    task.await.unwrap();
    assert!(begun.elapsed() >= second && begun.elapsed() < 5 * second);
    assert!(layer.is_proved());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_names_another_diff_id_serves_nobody_any_more() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let tar = samples::tar(33, 500_000);
    let digest = source.add_forged(samples::gzip(&tar, 6), SPAN);
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    let mut out = [0; 1000];
    layer.read(0, &mut out, Urgency::Demand).await.unwrap();
    fill(vec![layer.clone()], Pace::EAGER).await;
    assert!(!layer.is_proved());
    assert!(layer.read_local(0, &mut out).is_err());
    let error = layer.read(0, &mut out, Urgency::Demand).await.unwrap_err();
    assert!(matches!(error, ReadError::Revoked { .. }), "{error}");
    assert_eq!(source.revoked(), [digest]);
    drop((layer, cache));
    // It is not taken again, and a right one is.
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    let error = cache.layer(&digest).await.unwrap_err();
    assert!(matches!(error, CacheError::Revoked(_)), "{error}");
    source.add(samples::gzip(&tar, 6), SPAN);
    let layer = cache.layer(&digest).await.unwrap();
    fill(vec![layer.clone()], Pace::EAGER).await;
    assert!(layer.is_proved());
}

#[tokio::test(start_paused = true)]
async fn it_goes_on_when_somebody_can_serve_again() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let digest = source.add(samples::gzip(&samples::tar(34, 500_000), 6), SPAN);
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    source.becomes(Mood::Gone);
    let task = tokio::spawn(fill(vec![layer.clone()], Pace::EAGER));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(layer.spans_present(), 0);
    source.becomes(Mood::Serves);
    task.await.unwrap();
    assert!(layer.is_proved());
}
