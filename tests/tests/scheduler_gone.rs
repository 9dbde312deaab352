//! Without its scheduler a cluster goes on, and a scheduler that comes back empty learns what is there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use shoal_tests::{Cluster, ImageBuilder, Needs, Registry, available};

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";
const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn killed_during_a_pull_the_pull_completes() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let registry = Registry::start().await;
    let image = ImageBuilder::new(11).layer(40 * MIB).layer(8 * MIB).build();
    registry.push(&image, REPOSITORY, "v1").await;
    let builder = Cluster::builder().nodes(3).registry(NAME, &registry.url());
    let mut cluster = builder.toml("[limits]\norigin = \"8MiB\"").start().await;
    let pulls: Vec<_> = cluster
        .nodes()
        .iter()
        .map(|node| {
            let puller = node.puller(NAME);
            tokio::spawn(async move { puller.pull(REPOSITORY, "v1").await })
        })
        .collect();
    while cluster.sum("shoal_origin_received_bytes_total").await < (4 * MIB) as f64 {}
    cluster.scheduler().kill9().await;
    for pull in pulls {
        assert_eq!(pull.await.unwrap().unwrap().bytes, image.total_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_before_a_pull_every_node_still_pulls() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let registry = Registry::start().await;
    let image = ImageBuilder::new(12).layer(9 * MIB).build();
    registry.push(&image, REPOSITORY, "v1").await;
    let mut cluster = Cluster::builder().nodes(2).registry(NAME, &registry.url()).start().await;
    assert_eq!(cluster.scheduler().metrics().await.sum("shoal_scheduler_nodes"), 2.0);
    cluster.scheduler().kill9().await;
    for node in cluster.nodes() {
        let pulled = node.puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
        assert_eq!(pulled.bytes, image.total_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_had_a_scheduler_pulls() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let registry = Registry::start().await;
    let image = ImageBuilder::new(13).layer(9 * MIB).build();
    registry.push(&image, REPOSITORY, "v1").await;
    let cluster = Cluster::builder().without_scheduler().registry(NAME, &registry.url()).start().await;
    let pulled = cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    assert_eq!(pulled.bytes, image.total_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn back_and_empty_it_learns_who_holds_what() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let mut registry = Registry::start().await;
    let image = ImageBuilder::new(14).layer(20 * MIB).build();
    registry.push(&image, REPOSITORY, "v1").await;
    let mut cluster = Cluster::builder().nodes(3).registry(NAME, &registry.url()).start().await;
    cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    let sent = registry.blob_bytes().await;
    cluster.scheduler().kill9().await;
    cluster.scheduler().start().await;

    // Long before the nodes have reported, the scheduler must not let anybody fetch it again.
    let pulled = cluster.node(1).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    assert_eq!(pulled.bytes, image.total_bytes());
    assert_eq!(registry.blob_bytes().await, sent, "the registry sent again what a node holds");

    registry.stop().await;
    let pulled = cluster.node(2).puller(NAME).pull(REPOSITORY, &image.digest().to_string()).await.unwrap();
    assert_eq!(pulled.bytes, image.total_bytes());
}
