//! What was read once is there after a restart, without anybody else, and still only if it is right.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shoal_lazyfs::source::Urgency;
use shoal_lazyfs::span_cache::{CacheError, Layer, Patience, ReadError, SpanCache};
use shoal_proto::Digest;

use super::samples::{self, SPAN};
use super::served_again;
use super::source::{Mood, Source};

const PATIENCE: Patience = Patience { deadline: Duration::from_millis(100) };

async fn all(layer: &Arc<Layer>) -> Result<Vec<u8>, ReadError> {
    let mut out = vec![0; layer.index().spans.tar_size() as usize];
    layer.read(0, &mut out, Urgency::Demand).await.map(|()| out)
}

/// A layer whose tar was read whole by a process that is gone.
async fn left_behind(folder: &Path, source: &Arc<Source>) -> (Vec<u8>, Digest) {
    let tar = samples::tar(12, 1_000_000);
    let digest = source.add(samples::gzip(&tar, 6), SPAN);
    let cache = SpanCache::open(folder, source.clone(), PATIENCE).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    assert!(all(&layer).await.unwrap() == tar);
    cache.sync();
    (tar, digest)
}

pub(crate) fn file(folder: &Path, digest: &Digest, name: &str) -> PathBuf {
    folder.join("layers").join(format!("sha256-{}", digest.hex())).join(name)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_is_read_from_disk_with_everybody_gone() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let (tar, digest) = left_behind(folder.path(), &source).await;
    source.becomes(Mood::Gone);
    let cache = SpanCache::open(folder.path(), source.clone(), PATIENCE).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    assert!(all(&layer).await.unwrap() == tar);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_that_was_damaged_on_disk_is_fetched_again() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let (tar, digest) = left_behind(folder.path(), &source).await;
    flip(&file(folder.path(), &digest, "tar"), 700_000);
    source.becomes(Mood::Gone);
    let cache = SpanCache::open(folder.path(), source.clone(), PATIENCE).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    assert!(all(&layer).await.is_err());
    source.becomes(Mood::Serves);
    let asked = source.asked();
    assert!(served_again(async || all(&layer).await).await == tar);
    assert_eq!(source.asked(), asked + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_noted_before_a_crash_is_only_forgotten() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let (tar, digest) = left_behind(folder.path(), &source).await;
    let (tar_file, spans) = (file(folder.path(), &digest, "tar"), file(folder.path(), &digest, "spans"));
    // Half of the notes are lost, and so is a part of the data that is no longer noted.
    let len = fs::metadata(&spans).unwrap().len() as usize;
    let mut notes = fs::read(&spans).unwrap();
    notes[len - 1] = 0;
    fs::write(&spans, notes).unwrap();
    let mut bytes = fs::read(&tar_file).unwrap();
    let end = bytes.len();
    bytes[end - 2 * SPAN as usize..].fill(0);
    fs::write(&tar_file, bytes).unwrap();
    let cache = SpanCache::open(folder.path(), source.clone(), PATIENCE).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    assert!(all(&layer).await.unwrap() == tar);
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_about_another_index_do_not_count() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let (tar, digest) = left_behind(folder.path(), &source).await;
    flip(&file(folder.path(), &digest, "spans"), 20);
    let cache = SpanCache::open(folder.path(), source.clone(), PATIENCE).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    let asked = source.asked();
    assert!(all(&layer).await.unwrap() == tar);
    assert_eq!(source.asked(), asked + layer.index().spans.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_index_is_fetched_again() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let (tar, digest) = left_behind(folder.path(), &source).await;
    flip(&file(folder.path(), &digest, "head"), 100);
    let cache = SpanCache::open(folder.path(), source.clone(), PATIENCE).unwrap();
    assert!(all(&cache.layer(&digest).await.unwrap()).await.unwrap() == tar);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_has_one_user() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let cache = SpanCache::open(folder.path(), source.clone(), PATIENCE).unwrap();
    let other = SpanCache::open(folder.path(), source.clone(), PATIENCE);
    assert!(matches!(other.unwrap_err(), CacheError::InUse(_)));
    drop(cache);
    SpanCache::open(folder.path(), source, PATIENCE).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_without_an_index_is_not_opened() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let cache = SpanCache::open(folder.path(), source, PATIENCE).unwrap();
    let error = cache.layer(&Digest::sha256([9; 32])).await.unwrap_err();
    assert!(matches!(error, CacheError::Source(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn others_cannot_read_what_is_cached() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("deep/cache");
    SpanCache::open(&cache, Arc::new(Source::new()), PATIENCE).unwrap();
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
}
