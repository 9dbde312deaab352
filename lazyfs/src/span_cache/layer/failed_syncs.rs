//! A promise of the cache, tested: bytes that a sync could not put on the disk are not taken for being there.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::*;
use crate::build::IndexBuilder;
use crate::index::{Head, encode_head};
use crate::source::{Given, Giver, Giving, LayerSource};
use crate::span_cache::Patience;
use crate::span_cache::shelf::Shelf;

const SPAN: u64 = 64 << 10;

/// Serves one layer that is not compressed.
#[derive(Debug)]
struct Source(Bytes);

impl LayerSource for Source {
    fn index<'a>(
        &'a self,
        layer: &'a Digest,
        _range: Range<u64>,
        _urgency: Urgency,
        _wrong: &'a [Giver],
    ) -> Giving<'a> {
        async { Err(SourceError::NoIndex(*layer)) }.boxed()
    }

    fn layer<'a>(
        &'a self,
        _layer: &'a Digest,
        range: Range<u64>,
        _urgency: Urgency,
        _wrong: &'a [Giver],
    ) -> Giving<'a> {
        async move {
            let bytes = self.0.slice(offset(0, range.start)..offset(0, range.end));
            Ok(Given::by_itself(bytes))
        }
        .boxed()
    }
}

/// A tar, and its layer with all spans of it read.
async fn read_layer(folder: &Path) -> (Bytes, Arc<Layer>) {
    let mut header = tar::Header::new_gnu();
    header.set_size(5 * SPAN);
    header.set_mode(0o644);
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_data(&mut header, "file", io::Read::take(io::repeat(7), 5 * SPAN)).unwrap();
    let tar = Bytes::from(builder.into_inner().unwrap());
    let hash = ring::digest::digest(&ring::digest::SHA256, &tar);
    let name = Digest::sha256(hash.as_ref().try_into().unwrap());
    let mut builder = IndexBuilder::new(name, tar.len() as u64, SPAN, Vec::new()).unwrap();
    builder.push(&tar).unwrap();
    let built = builder.finish().unwrap();
    let head = Head::decode(&encode_head(&built.index, &built.window_lengths).unwrap()).unwrap();
    let source = Arc::new(Source(tar.clone()));
    let shelf = Arc::new(Shelf::open(folder.join("layers")));
    let runtime = tokio::runtime::Handle::current();
    let around =
        Surroundings { runtime, source, patience: Patience::default(), shelf, metrics: Arc::default() };
    let layer = Arc::new(Layer::new(Stored::open(folder, head).unwrap(), around));
    fill(&layer).await;
    (tar, layer)
}

async fn fill(layer: &Arc<Layer>) {
    for span in layer.index().spans.indexes() {
        layer.fill(span).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_sync_lost_is_fetched_again() {
    let folder = tempfile::tempdir().unwrap();
    let (tar, layer) = read_layer(folder.path()).await;
    layer.stored.syncs_fail.store(true, Ordering::Relaxed);
    layer.sync();
    // As when the kernel drops the pages that it could not write.
    layer.stored.tar.set_len(0).unwrap();
    layer.stored.tar.set_len(tar.len() as u64).unwrap();
    let mut out = vec![0xee; tar.len()];
    assert!(!layer.read_local(0, &mut out).unwrap());
    layer.read(0, &mut out, Urgency::Demand).await.unwrap();
    assert!(out == tar);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_during_a_sync_that_fails_is_forgotten_too() {
    let folder = tempfile::tempdir().unwrap();
    let (_, layer) = read_layer(folder.path()).await;
    let map = &layer.stored.map;
    map.sync(|| Ok(())).unwrap();
    let (written, still_written) = (SpanIndex(1), SpanIndex(2));
    map.forget(still_written);
    let before = map.failed_syncs();
    map.written(SpanIndex(0), before);
    let failed = map.sync(|| {
        map.written(written, before);
        Err(io::ErrorKind::Other.into())
    });
    assert!(failed.is_err());
    map.written(still_written, before);
    map.found(still_written, before);
    map.sync(|| Ok(())).unwrap();
    for span in [SpanIndex(0), written, still_written] {
        assert!(!map.is_checked(span) && !map.is_stored(span), "{span:?}");
    }
    assert!(map.is_checked(SpanIndex(3)) && map.is_stored(SpanIndex(3)), "synced before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_cannot_be_synced_is_not_noted_as_proved() {
    let folder = tempfile::tempdir().unwrap();
    let (_, layer) = read_layer(folder.path()).await;
    layer.stored.syncs_fail.store(true, Ordering::Relaxed);
    let error = layer.prove().await.unwrap_err();
    assert!(matches!(error, FillError::Read(ReadError::Disk { .. })), "{error}");
    // A sync that has nothing left to do does not make up for it.
    assert!(layer.prove().await.is_err());
    assert!(!layer.is_proved() && !folder.path().join("proved").exists());
    layer.stored.syncs_fail.store(false, Ordering::Relaxed);
    fill(&layer).await;
    layer.prove().await.unwrap();
    assert!(layer.is_proved() && folder.path().join("proved").exists());
    assert!(layer.index().spans.indexes().all(|span| layer.stored.map.is_stored(span)));
}
