//! A bit flips on the disk of a node: what its clients and its peers get is right, or is got elsewhere, and
//! never wrong.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use shoal_proto::MIN_CHUNK;
use shoal_tests::{Cluster, FaultyRegistry, Image, ImageBuilder, Node};

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";
const MIB: u64 = 1 << 20;
const CORRUPT: &str = "shoal_chunks_corrupt_total";

struct Scene {
    registry: FaultyRegistry,
    image: Image,
    cluster: Cluster,
}

impl Scene {
    /// A cluster in which the first `holders` nodes have the image.
    async fn new(seed: u64, nodes: usize, holders: usize) -> Self {
        let registry = FaultyRegistry::start().await;
        let image = ImageBuilder::new(seed).layer(6 * MIB).layer(300).build();
        registry.serve(&image, REPOSITORY, "v1");
        let cluster = Cluster::builder().nodes(nodes).registry(NAME, &registry.url()).start().await;
        let scene = Self { registry, image, cluster };
        for node in 0..holders {
            scene.pulls(node).await;
        }
        scene
    }

    /// The client checks every digest.
    async fn pulls(&self, node: usize) {
        let pulled = self.cluster.node(node).puller(NAME).pull(REPOSITORY, "v1").await;
        assert_eq!(pulled.unwrap_or_else(|e| panic!("node{node}: {e}")).bytes, self.image.total_bytes());
    }

    async fn corrupt(&self, node: usize) -> f64 {
        self.cluster.node(node).metrics().await.sum(CORRUPT)
    }
}

fn flip(node: &Node, image: &Image, offset: u64) {
    let path = node.blob_file(image.here().layers[0].bytes.len() as u64);
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0b100], offset).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn is_repaired_from_the_origin() {
    let scene = Scene::new(1, 1, 1).await;
    let sent = scene.registry.sent();
    flip(scene.cluster.node(0), &scene.image, 2 * MIB + 77);
    scene.pulls(0).await;
    assert!(scene.corrupt(0).await >= 1.0, "the corrupt chunk was not counted");
    let again = scene.registry.sent() - sent;
    assert!((MIN_CHUNK..2 * MIN_CHUNK).contains(&again), "one chunk is fetched again, not {again} bytes");
    // It is mended for good.
    let counted = scene.corrupt(0).await;
    scene.pulls(0).await;
    assert_eq!((scene.corrupt(0).await, scene.registry.sent() - sent), (counted, again));
}

#[tokio::test(flavor = "multi_thread")]
async fn is_repaired_from_the_swarm() {
    let scene = Scene::new(2, 2, 2).await;
    let sent = scene.registry.sent();
    flip(scene.cluster.node(0), &scene.image, 5);
    scene.pulls(0).await;
    assert!(scene.corrupt(0).await >= 1.0, "the corrupt chunk was not counted");
    assert_eq!(scene.registry.sent(), sent, "the other node has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn that_flipped_while_the_node_was_stopped_is_found() {
    let mut scene = Scene::new(3, 2, 2).await;
    let sent = scene.registry.sent();
    scene.cluster.node_mut(0).stop().await;
    flip(scene.cluster.node(0), &scene.image, 3 * MIB);
    scene.cluster.node_mut(0).start().await;
    scene.pulls(0).await;
    assert!(scene.corrupt(0).await >= 1.0, "the corrupt chunk was not counted");
    assert!(scene.registry.sent() - sent < MIN_CHUNK, "the other node has it");
}

#[tokio::test(flavor = "multi_thread")]
async fn does_not_reach_a_peer() {
    let scene = Scene::new(4, 2, 1).await;
    flip(scene.cluster.node(0), &scene.image, 4 * MIB + 1);
    // Its only peer asks it for that chunk, does not get it, and gets it from the registry.
    scene.pulls(1).await;
    let corrupt = async || scene.corrupt(0).await;
    let deadline = Instant::now() + Duration::from_secs(5);
    while corrupt().await < 1.0 {
        assert!(Instant::now() < deadline, "the corrupt chunk was not counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(scene.cluster.node(1).metrics().await.sum("shoal_chunks_rejected_total"), 0.0, "it was sent");
    scene.pulls(0).await;
}
