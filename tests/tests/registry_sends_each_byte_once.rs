//! Eight nodes pull one image at the same moment, and the registry's own access log shows that it sent
//! each byte once.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::HashMap;

use futures_util::future::join_all;
use shoal_tests::{Cluster, ImageBuilder, Needs, Registry, available};

const REPOSITORY: &str = "library/app";
const NODES: usize = 8;
const MIB: u64 = 1 << 20;

async fn eight_nodes_pull_at_once(zones: usize) {
    if !available(Needs::REGISTRY) {
        return;
    }
    let mut registry = Registry::start().await;
    let image = ImageBuilder::new(81).layer(48 * MIB).layer(12 * MIB).layer(300).multi_platform().build();
    registry.push(&image, REPOSITORY, "v1").await;
    let builder = Cluster::builder().nodes(NODES).zones(zones);
    let cluster = builder.registry("registry.test", &registry.url()).start().await;

    let pulls = cluster.nodes().iter().map(|node| {
        let puller = node.puller("registry.test");
        async move { puller.pull(REPOSITORY, "v1").await }
    });
    for (node, pulled) in join_all(pulls).await.into_iter().enumerate() {
        let pulled = pulled.unwrap_or_else(|e| panic!("node{node}: {e}"));
        assert_eq!((pulled.digest, pulled.bytes), (image.digest(), image.total_bytes()), "node{node}");
        println!("node{node}: {:.2} s", pulled.took.as_secs_f64());
    }

    // A transfer is logged when it ends, so let all end.
    registry.stop().await;
    let sent = registry.content_bytes().await;
    let ratio = sent as f64 / image.total_bytes() as f64;
    println!(
        "registry sent {sent} bytes, image {} bytes, ratio {ratio:.4} ({NODES} nodes)",
        image.total_bytes()
    );
    assert!(sent * 100 <= image.total_bytes() * 102, "the registry sent {ratio:.4} times the image");

    let mut gets: HashMap<String, usize> = HashMap::new();
    for access in registry.manifest_gets().await {
        *gets.entry(access.path).or_default() += 1;
    }
    println!("manifest GETs: {gets:?}");
    assert!(
        gets.len() <= 2 && gets.values().all(|times| *times == 1),
        "manifests were fetched more than once: {gets:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn in_one_zone() {
    eight_nodes_pull_at_once(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_two_zones() {
    eight_nodes_pull_at_once(2).await;
}
