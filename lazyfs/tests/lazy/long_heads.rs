//! A head that is longer than what a source gives at once is fetched in pieces.

use std::sync::Arc;

use shoal_lazyfs::index::Header;
use shoal_lazyfs::source::{MAX_RANGE, Urgency};
use shoal_lazyfs::span_cache::{Patience, SpanCache};

use super::source::Source;

#[tokio::test(flavor = "multi_thread")]
async fn a_head_longer_than_one_range_is_fetched_in_pieces() {
    let (folder, source) = (tempfile::tempdir().unwrap(), Arc::new(Source::new()));
    // Each span has a hash, which does not compress.
    let mut content = vec![0; 1_000_000 * 64];
    fastrand::Rng::with_seed(71).fill(&mut content);
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, "file", &*content).unwrap();
    let tar = tar.into_inner().unwrap();
    let digest = source.add(tar.clone(), 64);
    let head = Header::decode(source.index_of(&digest).first_chunk().unwrap()).unwrap().head_len();
    assert!(head > MAX_RANGE, "{head} bytes");
    let cache = SpanCache::open(folder.path(), source.clone(), Patience::default()).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    assert_eq!(source.asked_of_indexes(), 3, "the header and two pieces");
    let mut out = vec![0; 1000];
    layer.read(1_000_000, &mut out, Urgency::Demand).await.unwrap();
    assert!(out == tar[1_000_000..1_001_000]);
}
