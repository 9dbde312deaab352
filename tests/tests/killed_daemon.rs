//! A daemon is killed with SIGKILL at random points of a pull, again and again, and started again. The
//! pull completes through this daemon alone, and chunks that were durable are not fetched again.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use shoal_proto::ChunkLayout;
use shoal_tests::{Cluster, Image, ImageBuilder, Needs, Node, Registry, available};

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";
const MIB: u64 = 1 << 20;
const KILLS: u64 = 20;
const RECEIVED: &str = "shoal_origin_received_bytes_total";

/// Bytes of the image's blobs of which the node's store says that it lacks them; counted in whole
/// chunks, so never too low.
async fn missing(node: &Node, image: &Image) -> u64 {
    let status = node.status().await;
    let blobs = status["blobs"].as_array().expect("/status lists blobs");
    let missing = image.here().blobs().map(|blob| {
        let digest = blob.digest.to_string();
        let layout = ChunkLayout::new(blob.bytes.len() as u64).unwrap();
        let entry = blobs.iter().find(|entry| entry["digest"] == *digest);
        let held = entry.map_or(0, |entry| entry["held_chunks"].as_u64().expect("held_chunks is a number"));
        (u64::from(layout.count()) - held) * layout.chunk_size()
    });
    missing.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_survives_twenty_kills() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let seed =
        std::env::var("SHOAL_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SHOAL_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut registry = Registry::start().await;
    let image = ImageBuilder::new(seed).layer(200 * MIB).layer(56 * MIB).layer(100).build();
    registry.push(&image, REPOSITORY, "v1").await;
    // A slow origin, so that there is a pull to be killed in.
    let builder = Cluster::builder().registry(NAME, &registry.url());
    let mut cluster = builder.toml("[limits]\norigin = \"64MiB\"").start().await;

    let mut mid_pull = 0;
    let mut lacked = u64::MAX;
    for kill in 0..KILLS {
        let node = cluster.node_mut(0);
        let puller = node.puller(NAME);
        let pull = tokio::spawn(async move { puller.pull(REPOSITORY, "v1").await });
        let point = random.u64(0..image.total_bytes() / 8);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !pull.is_finished() && node.metrics().await.sum(RECEIVED) < point as f64 {
            assert!(Instant::now() < deadline, "kill {kill}: the pull stands still before {point} bytes");
        }
        mid_pull += u64::from(!pull.is_finished());
        node.kill9().await;
        // Cut off, or finished before: either is fine, wrong bytes are not.
        if let Ok(pulled) = pull.await.unwrap() {
            assert_eq!(pulled.bytes, image.total_bytes());
        }
        // The registry logs what it sent when a transfer ends, so end what the kill left over.
        registry.stop().await;
        node.start().await;
        let lacks = missing(node, &image).await;
        assert!(
            lacks <= lacked,
            "kill {kill}: durable chunks were lost: {lacked} bytes missing before, {lacks} now"
        );
        lacked = lacks;
        registry.start_again().await;
    }
    println!("{mid_pull} of {KILLS} kills hit a pull that was under way");
    assert!(mid_pull >= KILLS / 4, "the kills came too late to test anything");

    let before = registry.content_bytes().await;
    let pulled = cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    assert_eq!((pulled.digest, pulled.bytes), (image.digest(), image.total_bytes()));
    registry.stop().await;
    let sent = registry.content_bytes().await;
    println!("the last pull lacked {lacked} bytes, the registry sent {}", sent - before);
    let manifests = image.total_bytes() - image.blob_bytes();
    assert!(sent - before <= lacked + manifests, "durable chunks were fetched again");

    // Complete and verified, so a start serves it without the registry, from this node's disk alone.
    cluster.node_mut(0).restart().await;
    let pulled = cluster.node(0).puller(NAME).pull(REPOSITORY, &image.digest().to_string()).await.unwrap();
    assert_eq!(pulled.bytes, image.total_bytes());
    assert_eq!(registry.content_bytes().await, sent);
}
