//! Who serves an index is not who vouched for it: no other index than the claimed one is used, and one wrong answer
//! is not the end.

use std::fs;
use std::iter;
use std::sync::Arc;

use bytes::Bytes;
use shoal_lazyfs::source::Urgency;
use shoal_lazyfs::span_cache::{CacheError, Patience, SpanCache};
use shoal_proto::Digest;

use super::samples::{self, SPAN};
use super::source::{Mood, Source, index_file};

struct Case {
    tar: Vec<u8>,
    digest: Digest,
    source: Arc<Source>,
    right: Bytes,
    /// Sound in itself and about the layer, with another content.
    foreign: Bytes,
    folder: tempfile::TempDir,
    cache: Arc<SpanCache>,
}

fn case() -> Case {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    let tar = samples::tar(41, 500_000);
    let layer = samples::gzip(&tar, 6);
    let digest = source.add(layer.clone(), SPAN);
    let other = index_file(&samples::gzip(&samples::tar(42, 500_000), 6), SPAN, |index| index.layer = digest);
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    Case { tar, digest, right: source.index_of(&digest), source, foreign: other, folder, cache }
}

/// The file with one byte of its header changed: 40..48 is the length of the compressed table.
fn changed(file: &Bytes, at: usize) -> Bytes {
    let mut file = file.to_vec();
    file[at] ^= 1;
    file.into()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_head_is_asked_for_again_until_it_is_the_claimed_one() {
    let Case { right, foreign, .. } = case();
    let (magic, length, huge) = (changed(&right, 0), changed(&right, 40), changed(&right, 43));
    let first: [&[&Bytes]; 7] = [
        &[&foreign],
        &[&foreign, &foreign],
        &[&foreign, &magic],
        &[&right, &foreign],
        &[&right, &foreign, &foreign],
        // The length shows as wrong only when no head of that length is right.
        &[&length],
        &[&huge],
    ];
    for (number, first) in first.into_iter().enumerate() {
        let case = case();
        case.source.gives_first(first.iter().copied().cloned());
        let layer = case.cache.layer(&case.digest).await.unwrap_or_else(|error| panic!("{number}: {error}"));
        let mut out = vec![0; case.tar.len()];
        layer.read(0, &mut out, Urgency::Demand).await.unwrap();
        assert!(out == case.tar, "{number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_another_index_comes_nothing_is_shown() {
    let case = case();
    case.source.gives_first(iter::repeat_n(case.foreign.clone(), 100));
    let Err(error) = case.cache.layer(&case.digest).await else { panic!("it was used") };
    assert!(matches!(error, CacheError::OtherIndex(of) if of == case.digest), "{error}");
    assert!(!case.cache.holds(&case.digest));
    assert_eq!(fs::read_dir(case.folder.path().join("layers")).unwrap().count(), 0);
    assert_eq!(case.source.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_head_of_another_file_is_fetched_again_and_spans_stay() {
    let Case { tar, digest, source, folder, cache, .. } = case();
    let layer = cache.layer(&digest).await.unwrap();
    layer.read(0, &mut [0; 1], Urgency::Demand).await.unwrap();
    drop((layer, cache));
    source.compresses_windows_otherwise(&digest);
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    let mut out = vec![0; tar.len()];
    layer.read(0, &mut out, Urgency::Demand).await.unwrap();
    assert!(out == tar);
    assert_eq!(source.asked(), layer.index().spans.len(), "the first span was there");
    // Now it is the claimed one's, and needs nobody.
    drop((layer, cache));
    source.becomes(Mood::Gone);
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    cache.layer(&digest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_head_with_another_id_is_used_no_more() {
    let Case { digest, source, folder, cache, tar, .. } = case();
    let old = cache.layer(&digest).await.unwrap().index().clone();
    drop(cache);
    source.add(samples::gzip(&tar, 6), 2 * SPAN);
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    assert_ne!(*layer.index(), old);
}
