//! `[limits]` holds: no more bytes in a second than configured, from origins, from peers, to peers; measured
//! by the clock and the bytes that arrived, not by what the node says of itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use shoal_tests::{Cluster, FaultyRegistry, Image, ImageBuilder};

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";
const MIB: u64 = 1 << 20;
const RATE: u64 = 4 * MIB;

/// Bytes of an image that takes three seconds at the limit.
fn image(seed: u64) -> Image {
    ImageBuilder::new(seed).layer(8 * MIB).layer(4 * MIB).build()
}

/// Fails when the bytes came more than 15 % faster than the limit allows. Slower is no failure here: this
/// machine may be busy.
fn assert_held(what: &str, bytes: u64, took: Duration) {
    let rate = bytes as f64 / took.as_secs_f64();
    println!("{what}: {:.2} MiB/s of {} MiB/s", rate / MIB as f64, RATE / MIB);
    assert!(rate <= RATE as f64 * 1.15, "{what}: {rate:.0} bytes per second, the limit is {RATE}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_from_origins() {
    let (registry, image) = (FaultyRegistry::start().await, image(1));
    registry.serve(&image, REPOSITORY, "v1");
    let builder = Cluster::builder().registry(NAME, &registry.url());
    let cluster = builder.toml("[limits]\norigin = \"4MiB\"").start().await;
    let pulled = cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    assert_eq!(pulled.bytes, image.total_bytes());
    assert_held("origin", image.blob_bytes(), pulled.took);
}

/// One node has the image, another one pulls it from there, both under these limits.
async fn from_a_peer(what: &str, seed: u64) {
    let (registry, image) = (FaultyRegistry::start().await, image(seed));
    registry.serve(&image, REPOSITORY, "v1");
    let builder = Cluster::builder().nodes(2).registry(NAME, &registry.url());
    let cluster = builder.toml(&format!("[limits]\n{what} = \"4MiB\"")).start().await;
    let first = cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    let sent = registry.sent();
    let second = cluster.node(1).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    assert_eq!((first.bytes, second.bytes), (image.total_bytes(), image.total_bytes()));
    let origin = registry.sent() - sent;
    assert!(
        origin < shoal_proto::MIN_CHUNK,
        "{origin} bytes came from the registry, which this limit is not about"
    );
    assert_held(what, image.blob_bytes(), second.took);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_to_peers() {
    from_a_peer("upload", 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_from_peers() {
    from_a_peer("download", 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_limit_holds_for_all_neighbours_together() {
    let (registry, image) = (FaultyRegistry::start().await, image(4));
    registry.serve(&image, REPOSITORY, "v1");
    let builder = Cluster::builder().nodes(3).registry(NAME, &registry.url());
    let cluster = builder.toml("[limits]\nupload = \"4MiB\"").start().await;
    cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    let started = std::time::Instant::now();
    let (one, two) = (cluster.node(1).puller(NAME), cluster.node(2).puller(NAME));
    let (one, two) = tokio::join!(one.pull(REPOSITORY, "v1"), two.pull(REPOSITORY, "v1"));
    assert_eq!(one.unwrap().bytes + two.unwrap().bytes, 2 * image.total_bytes());
    // Three nodes may send, and two images arrive: at least two thirds of an image from each.
    assert_held("upload of three nodes, each", 2 * image.blob_bytes() / 3, started.elapsed());
}
