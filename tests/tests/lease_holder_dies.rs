//! The node that reads most from the registry is killed in the middle of a pull: the others finish, and the
//! registry sends again at most what was under way.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use shoal_tests::{Cluster, Fault, FaultyRegistry, ImageBuilder};

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";
const MIB: u64 = 1 << 20;
/// The longest lease of a layer of this size, in bytes.
const LEASE: u64 = 8 * MIB;
const ORIGIN_CHUNKS: &str = "shoal_origin_chunks_total";

#[tokio::test(flavor = "multi_thread")]
async fn the_others_finish_and_little_is_read_twice() {
    let registry = FaultyRegistry::start().await;
    let image = ImageBuilder::new(21).layer(48 * MIB).layer(300).build();
    registry.serve(&image, REPOSITORY, "v1");
    // Each transfer takes seconds, so that there is a pull to be killed in; and the registry sends no faster than
    // is read, so that what it counts is what was of use until the kill.
    registry.fault(&image.here().layers[0].digest.to_string(), Fault::Slow(2 << 20));
    let mut cluster = Cluster::builder().nodes(4).registry(NAME, &registry.url()).start().await;
    let pulls: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|node| {
            let puller = node.puller(NAME);
            tokio::spawn(async move { puller.pull(REPOSITORY, "v1").await })
        })
        .collect();

    let deadline = Instant::now() + Duration::from_secs(60);
    let victim = loop {
        let read = join_all(cluster.nodes().iter().map(|node| node.metrics())).await;
        let read: Vec<f64> = read.iter().map(|metrics| metrics.sum(ORIGIN_CHUNKS)).collect();
        if read.iter().sum::<f64>() >= 16.0 {
            break read.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
        }
        assert!(Instant::now() < deadline, "the pull stands still: {read:?}");
    };
    assert!(!pulls[victim].is_finished(), "killed too late to test anything");
    cluster.node_mut(victim).kill9().await;

    for (node, pull) in pulls.into_iter().enumerate() {
        let pulled = pull.await.unwrap();
        if node != victim {
            assert_eq!(pulled.unwrap_or_else(|e| panic!("node{node}: {e}")).bytes, image.total_bytes());
        }
    }
    let sent = registry.sent();
    println!("registry sent {sent} bytes for an image of {}", image.total_bytes());
    assert!(sent * 10 <= image.total_bytes() * 11 + LEASE * 10, "{sent} bytes were read");
}
