//! A disk that takes no more makes reads slower, never wrong.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::mount::{MountFlags, UnmountFlags};
use shoal_lazyfs::index::SpanIndex;
use shoal_lazyfs::source::Urgency;
use shoal_lazyfs::span_cache::{FillError, Patience, SpanCache};

use super::samples::{self, SPAN};
use super::served::can_mount;
use super::source::Source;

struct Tmpfs(PathBuf);

impl Drop for Tmpfs {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_go_on_from_memory_and_the_fill_stops() {
    if !can_mount() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let small = folder.path().join("small");
    fs::create_dir(&small).unwrap();
    rustix::mount::mount("tmpfs", &small, "tmpfs", MountFlags::empty(), c"size=1m").unwrap();
    let _small = Tmpfs(small.clone());
    let source = Arc::new(Source::new());
    let tar = samples::tar(41, 3_000_000);
    let digest = source.add(samples::gzip(&tar, 6), SPAN);
    let cache = SpanCache::open(&small, source.clone(), Patience::default()).unwrap();
    let layer = cache.layer(&digest).await.unwrap();
    for _ in 0..2 {
        let mut out = vec![0; tar.len()];
        layer.read(0, &mut out, Urgency::Demand).await.unwrap();
        assert!(out == tar);
    }
    assert!(source.asked() > layer.index().spans.len(), "what the disk did not take is fetched again");
    assert!(source.blamed().is_empty(), "who gave it gave what was right");
    let present = layer.spans_present();
    assert!(present > 3 && present < layer.index().spans.len(), "{present} spans");
    let last = SpanIndex(layer.index().spans.len() as u32 - 1);
    assert!(matches!(layer.fill(last).await, Err(FillError::DiskFull)));
}
