//! A hostile registry lists a digest that everybody pulls, with wrong bytes or with a wrong size. Whoever
//! asks that registry gets nothing; whoever asks another one gets the image as if nothing had happened, and
//! no honest node is taken for a liar.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use futures_util::future::join_all;
use sha2::{Digest as _, Sha256};
use shoal_proto::Digest;
use shoal_tests::{Cluster, Fault, FaultyRegistry, Image, ImageBuilder, PullError};

const GOOD: &str = "good.test";
const BAD: &str = "bad.test";
const REPOSITORY: &str = "library/app";
const MIB: u64 = 1 << 20;
const NODES: usize = 3;

/// The same image with a manifest that gives its first layer so many bytes more, and with as many bytes
/// behind that layer's digest.
fn enlarged(image: &Image, more: usize) -> Image {
    let mut image = image.clone();
    let platform = &mut image.platforms[0];
    let layer = &mut platform.layers[0];
    layer.bytes = [&layer.bytes[..], &vec![b' '; more]].concat().into();
    let mut manifest: serde_json::Value = serde_json::from_slice(&platform.manifest.bytes).unwrap();
    manifest["layers"][0]["size"] = layer.bytes.len().into();
    platform.manifest.bytes = manifest.to_string().into();
    platform.manifest.digest = Digest::sha256(Sha256::digest(&platform.manifest.bytes).into());
    image.root = platform.manifest.clone();
    image
}

async fn pull_everywhere(cluster: &Cluster, registry: &str) -> Vec<Result<u64, PullError>> {
    let pulls = cluster.nodes().iter().map(|node| async move {
        node.puller(registry).pull(REPOSITORY, "v1").await.map(|pulled| pulled.bytes)
    });
    join_all(pulls).await
}

async fn spoils_nobody_elses_pull(seed: u64, lies: impl FnOnce(&FaultyRegistry, &Image), bad_first: bool) {
    let (good, bad) = (FaultyRegistry::start().await, FaultyRegistry::start().await);
    let image = ImageBuilder::new(seed).layer(8 * MIB).layer(300).build();
    good.serve(&image, REPOSITORY, "v1");
    lies(&bad, &image);
    let builder = Cluster::builder().nodes(NODES).registry(GOOD, &good.url()).registry(BAD, &bad.url());
    let mut cluster = builder.start().await;

    let (spoiled, pulled) = if bad_first {
        let spoiled = pull_everywhere(&cluster, BAD).await;
        (spoiled, pull_everywhere(&cluster, GOOD).await)
    } else {
        tokio::join!(pull_everywhere(&cluster, BAD), pull_everywhere(&cluster, GOOD))
    };
    for result in pulled {
        assert_eq!(result.expect("the good registry's image"), image.total_bytes());
    }
    for result in &spoiled {
        assert!(
            !matches!(result, Err(PullError::WrongBytes { .. })),
            "wrong bytes were delivered: {result:?}"
        );
        // With the same size, the right bytes may come from the other registry's swarm.
        let right = result.as_ref().is_ok_and(|bytes| *bytes == image.total_bytes());
        assert!(right || result.is_err(), "{result:?}");
        assert!(!(right && bad_first), "nobody had the right bytes yet");
    }

    // All deal with each other as before: one more image is fetched once for all of them.
    let sent = good.sent();
    let other = ImageBuilder::new(seed + 100).layer(6 * MIB).build();
    good.serve(&other, "library/other", "v1");
    let pulls = cluster.nodes().iter().map(|node| node.puller(GOOD));
    let pulls = pulls.map(|puller| async move { puller.pull("library/other", "v1").await.unwrap().bytes });
    assert_eq!(join_all(pulls).await, [other.total_bytes(); NODES]);
    let sent = good.sent() - sent;
    assert!(sent * 100 <= other.total_bytes() * 102, "{sent} bytes for an image of {}", other.total_bytes());
    for node in 0..NODES {
        assert!(cluster.node_mut(node).is_alive());
        let output = cluster.node(node).output();
        assert!(!output.contains("a member lied"), "node{node} shuns an honest node:\n{output}");
    }
}

fn wrong_bytes(bad: &FaultyRegistry, image: &Image) {
    bad.serve(image, REPOSITORY, "v1");
    bad.fault(&image.here().layers[0].digest.to_string(), Fault::Flip);
}

fn wrong_size(bad: &FaultyRegistry, image: &Image) {
    bad.serve(&enlarged(image, 70_000), REPOSITORY, "v1");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_before_anybody_has_the_right_ones() {
    spoils_nobody_elses_pull(1, wrong_bytes, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_while_others_pull() {
    spoils_nobody_elses_pull(2, wrong_bytes, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_size_before_anybody_has_the_right_one() {
    spoils_nobody_elses_pull(3, wrong_size, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_size_while_others_pull() {
    spoils_nobody_elses_pull(4, wrong_size, false).await;
}
