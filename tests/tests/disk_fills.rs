//! The disk is full, or what `[limits] disk` allows of it: what is cached makes room for what is pulled, what
//! cannot be cached is passed through, and the daemon lives on and serves what it has.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::MetadataExt;

use shoal_tests::{
    Cluster, Fault, FaultyRegistry, Image, ImageBuilder, Needs, Node, PullError, Pulled, available,
};

const NAME: &str = "registry.test";
const MIB: u64 = 1 << 20;
/// The least that the configuration allows.
const LIMIT: u64 = 64 * MIB;
/// File systems count blocks in which they note where a file's data lies.
const SLACK: u64 = 64 << 10;
/// What the store leaves to others on its file system.
const RESERVE: u64 = 256 * MIB;

/// Images of about 24 MiB, `library/app0` and so on.
fn images(registry: &FaultyRegistry, count: u64) -> Vec<Image> {
    let build = |number| {
        let image = ImageBuilder::new(number).layer(20 * MIB).layer(4 * MIB).layer(300).build();
        registry.serve(&image, &format!("library/app{number}"), "v1");
        image
    };
    (0..count).map(build).collect()
}

async fn pull(node: &Node, images: &[Image], number: usize) {
    let pulled = node.puller(NAME).pull(&format!("library/app{number}"), "v1").await;
    let pulled = pulled.unwrap_or_else(|e| panic!("app{number}: {e}"));
    assert_eq!((pulled.digest, pulled.bytes), (images[number].digest(), images[number].total_bytes()));
}

/// Whole and right, although the disk did not take it, and without throwing out for it what fits.
fn assert_passed_through(pulled: Result<Pulled, PullError>, image: &Image) {
    let pulled = pulled.unwrap_or_else(|e| panic!("what the disk cannot take is not passed through: {e}"));
    assert_eq!((pulled.digest, pulled.bytes), (image.digest(), image.total_bytes()));
}

/// Bytes that the blobs really take on disk: files are sparse.
fn on_disk(node: &Node) -> u64 {
    let files = std::fs::read_dir(node.data_dir().join("store").join("blobs")).unwrap();
    // A file may be evicted between the listing and the look at it.
    files.filter_map(|file| file.ok()?.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_least_recently_makes_room() {
    let registry = FaultyRegistry::start().await;
    let images = images(&registry, 5);
    let builder = Cluster::builder().registry(NAME, &registry.url());
    let mut cluster = builder.toml("[limits]\ndisk = \"64MiB\"").start().await;
    let node = cluster.node(0);
    for number in 0..images.len() {
        pull(node, &images, number).await;
        let used = node.metrics().await.sum("shoal_store_used_bytes");
        println!("app{number}: {used} bytes used, {} on disk", on_disk(node));
        assert!(used <= LIMIT as f64 && on_disk(node) <= LIMIT + SLACK, "more than the limit is used");
    }
    // The last one is still there, the first one is fetched again.
    let sent = registry.sent();
    pull(node, &images, 4).await;
    assert_eq!(registry.sent(), sent, "the image used last was evicted");
    pull(node, &images, 0).await;
    assert!(registry.sent() - sent >= images[0].blob_bytes(), "more is kept than fits");
    assert!(cluster.node_mut(0).is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_the_limit_harms_nobody() {
    let registry = FaultyRegistry::start().await;
    let images = images(&registry, 2);
    let large = ImageBuilder::new(99).layer(90 * MIB).build();
    registry.serve(&large, "library/large", "v1");
    let builder = Cluster::builder().registry(NAME, &registry.url());
    let mut cluster = builder.toml("[limits]\ndisk = \"64MiB\"").start().await;
    pull(cluster.node(0), &images, 0).await;
    let pulled = cluster.node(0).puller(NAME).pull("library/large", "v1").await;
    println!("larger than the limit: {pulled:?}");
    assert!(cluster.node_mut(0).is_alive());
    let node = cluster.node(0);
    let (used, taken) = (node.metrics().await.sum("shoal_store_used_bytes"), on_disk(node));
    assert!(
        used <= LIMIT as f64 && taken <= LIMIT + SLACK,
        "more than the limit: {used} bytes used, {taken} on disk"
    );
    assert_passed_through(pulled, &large);
    assert!(node.metrics().await.sum("shoal_blobs_passed_through_total") >= 1.0);
    let sent = registry.sent();
    pull(node, &images, 0).await;
    assert_eq!(registry.sent(), sent, "what was cached made room for what can never fit");
    pull(node, &images, 1).await;
}

/// What is passed through is still checked: a client never completes wrong bytes.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_not_passed_through_whole() {
    let registry = FaultyRegistry::start().await;
    let large = ImageBuilder::new(99).layer(90 * MIB).build();
    registry.serve(&large, "library/large", "v1");
    let layer = large.blobs().max_by_key(|blob| blob.bytes.len()).unwrap();
    registry.fault(&layer.digest.to_string(), Fault::Flip);
    let builder = Cluster::builder().registry(NAME, &registry.url());
    let cluster = builder.toml("[limits]\ndisk = \"64MiB\"").start().await;
    let pulled = cluster.node(0).puller(NAME).pull("library/large", "v1").await;
    assert!(matches!(pulled, Err(PullError::Request { .. })), "not cut: {pulled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_system_without_room_does_not_stop_the_daemon() {
    if !available(Needs { root: true, fuse: false, programs: &["mount", "umount"] }) {
        return;
    }
    let registry = FaultyRegistry::start().await;
    let images = images(&registry, 3);
    // Room for one image.
    let builder = Cluster::builder().registry(NAME, &registry.url()).disk_of(RESERVE + 32 * MIB);
    let mut cluster = builder.start().await;
    for number in 0..images.len() {
        pull(cluster.node(0), &images, number).await;
    }
    // Somebody else takes all that is left.
    let ballast = std::fs::File::create(cluster.node(0).data_dir().join("ballast")).unwrap();
    let free = rustix::fs::fstatvfs(&ballast).unwrap();
    let taken = rustix::fs::fallocate(
        &ballast,
        rustix::fs::FallocateFlags::empty(),
        0,
        free.f_bavail * free.f_frsize,
    );
    taken.unwrap();
    pull(cluster.node(0), &images, 2).await;
    let pulled = cluster.node(0).puller(NAME).pull("library/app0", "v1").await;
    println!("no byte left: {pulled:?}");
    assert!(cluster.node_mut(0).is_alive());
    pull(cluster.node(0), &images, 2).await;
    // There is room again.
    ballast.set_len(0).unwrap();
    pull(cluster.node(0), &images, 0).await;
    assert_passed_through(pulled, &images[0]);
}
