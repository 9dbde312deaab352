//! In the background layers become whole, and what their indexes say is then proved or refused.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use shoal_lazyfs::fill::{FillRate, Pace};
use shoal_lazyfs::source::Urgency;
use shoal_lazyfs::span_cache::{CacheError, FillError, Patience, ReadError, SpanCache};

use super::fill;
use super::samples::{self, SPAN};
use super::source::{Mood, Source};
use super::spans_outlast_the_process::file;

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

#[tokio::test(start_paused = true)]
async fn a_fill_keeps_to_its_rate_and_no_reader_does() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    let digests = [35, 36].map(|seed| source.add(samples::gzip(&samples::tar(seed, 2_000_000), 6), SPAN));
    let layers = [cache.layer(&digests[0]).await.unwrap(), cache.layer(&digests[1]).await.unwrap()];
    let spans = layers.iter().flat_map(|layer| {
        let spans = &layer.index().spans;
        spans.indexes().map(|span| spans.compressed_range(span).unwrap())
    });
    let bytes: u64 = spans.map(|range| range.end - range.start).sum();
    // Together.
    let rate = FillRate::bytes_per_second(bytes / 20);
    let begun = tokio::time::Instant::now();
    let fills = layers.clone().map(|layer| shoal_lazyfs::fill::fill(vec![layer], Pace::EAGER, &rate));
    let reader = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        layers[0].read(900_000, &mut [0; 10], Urgency::Demand).await.unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1));
    };
    futures_util::join!(futures_util::future::join_all(fills), reader);
    assert!(layers.iter().all(|layer| layer.is_proved()));
    let took = begun.elapsed().as_secs();
    assert!((18..=22).contains(&took), "{took} s");
}

/// The same tar, but its first file has the set-user-id bit.
fn with_set_id(tar: &[u8]) -> Vec<u8> {
    let mut tar = tar.to_vec();
    tar[100..108].copy_from_slice(b"0004755\0");
    tar[148..156].fill(b' ');
    let sum: u32 = tar[..512].iter().map(|&byte| u32::from(byte)).sum();
    tar[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_shows_other_files_than_its_tar_has_serves_nobody_any_more() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let tar = samples::tar(35, 500_000);
    let digest = source.add_with_tree_of(&with_set_id(&tar), samples::gzip(&tar, 6), SPAN);
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    for span in layer.index().spans.indexes() {
        layer.fill(span).await.unwrap();
    }
    // Each span is right, and so is the DiffID.
    let error = layer.prove().await.unwrap_err();
    assert!(matches!(error, FillError::Tree), "{error}");
    let error = layer.read(0, &mut [0; 10], Urgency::Demand).await.unwrap_err();
    assert!(matches!(error, ReadError::Revoked { .. }), "{error}");
    assert_eq!(source.revoked(), [digest]);
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

#[tokio::test(start_paused = true)]
async fn a_layer_that_nobody_can_serve_does_not_keep_others_from_it() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let first = source.add(samples::gzip(&samples::tar(35, 500_000), 6), SPAN);
    let second = source.add(samples::gzip(&samples::tar(36, 500_000), 6), SPAN);
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    let layers = [cache.layer(&first).await.unwrap(), cache.layer(&second).await.unwrap()];
    source.becomes(Mood::Without(first));
    let task = tokio::spawn(fill(layers.to_vec(), Pace::EAGER));
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(layers[0].spans_present(), 0);
    assert!(layers[1].is_proved());
    source.becomes(Mood::Serves);
    task.await.unwrap();
    assert!(layers[0].is_proved());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_damages_a_span_is_not_taken_for_an_index_that_lies() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let tar = samples::tar(37, 1_000_000);
    let digest = source.add(samples::gzip(&tar, 6), SPAN);
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    let damage = || {
        let tar = File::options().write(true).open(file(folder.path(), &digest, "tar")).unwrap();
        tar.write_all_at(&[0xee; 4096], 700_000).unwrap();
    };
    for span in layer.index().spans.indexes() {
        layer.fill(span).await.unwrap();
    }
    damage();
    let error = layer.prove().await.unwrap_err();
    assert!(matches!(error, FillError::Read(ReadError::Disk { .. })), "{error}");
    assert_eq!(layer.spans_present(), layer.index().spans.len() - 1, "only the damaged one is forgotten");
    for span in layer.index().spans.indexes() {
        layer.fill(span).await.unwrap();
    }
    damage();
    fill(vec![layer.clone()], Pace::EAGER).await;
    assert!(layer.is_proved());
    assert_eq!(source.revoked(), []);
    let mut out = vec![0; tar.len()];
    assert!(layer.read_local(0, &mut out).unwrap() && out == tar);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proved_layer_that_lost_its_spans_becomes_whole_again() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let tar = samples::tar(38, 500_000);
    let digest = source.add(samples::gzip(&tar, 6), SPAN);
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    fill(vec![layer.clone()], Pace::EAGER).await;
    drop((layer, cache));
    fs::write(file(folder.path(), &digest, "spans"), []).unwrap();
    fs::write(file(folder.path(), &digest, "tar"), []).unwrap();
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    assert!(layer.is_proved());
    fill(vec![layer.clone()], Pace::EAGER).await;
    let mut out = vec![0; tar.len()];
    assert!(layer.read_local(0, &mut out).unwrap() && out == tar);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_is_told_of_even_if_it_cannot_be_noted() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let digest = source.add_forged(samples::gzip(&samples::tar(39, 500_000), 6), SPAN);
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    fs::create_dir(file(folder.path(), &digest, "revoked")).unwrap();
    fill(vec![layer.clone()], Pace::EAGER).await;
    assert_eq!(source.revoked(), [digest]);
    assert!(layer.read_local(0, &mut [0; 10]).is_err());
}
