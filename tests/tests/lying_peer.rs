//! A member of the cluster lies about the chunks of a blob: it claims all of them before anybody else has one,
//! and delivers wrong bytes, the bytes of another chunk, far too many, too few, nothing, or what it signed for
//! itself. All honest nodes get the image, with the right bytes, and no client ever sees a wrong one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Instant;

use futures_util::future::join_all;
use shoal_proto::SwarmId;
use shoal_tests::{Cluster, Fault, FaultyRegistry, ImageBuilder, Liar, Lie};

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";
const MIB: u64 = 1 << 20;
const NODES: usize = 3;

/// What the honest nodes saw of the liar.
struct Seen {
    /// Chunks that it was asked for.
    asked: u64,
    rejected: f64,
    mismatches: f64,
    cluster: Cluster,
}

/// Honest nodes pull an image at once while the liar is there, and once more from their caches.
async fn pull_beside(lie: Lie, lies_to_tracker: bool) -> Seen {
    let registry = FaultyRegistry::start().await;
    let image = ImageBuilder::new(7).layer(12 * MIB).layer(300).build();
    registry.serve(&image, REPOSITORY, "v1");
    let layer = &image.here().layers[0];
    // Slower than the liar, so that it is asked.
    registry.fault(&layer.digest.to_string(), Fault::Slow(3 << 20));
    let cluster = Cluster::builder().nodes(NODES).registry(NAME, &registry.url()).start().await;
    let swarm = SwarmId {
        digest: layer.digest,
        size: layer.bytes.len() as u64,
        origin: NAME.parse().unwrap(),
        round: 0,
    };
    let liar = Liar::join(&cluster, swarm, &layer.bytes, lie, lies_to_tracker).await;

    let started = Instant::now();
    for again in [false, true] {
        let pulls = cluster.nodes().iter().map(|node| {
            let puller = node.puller(NAME);
            async move { puller.pull(REPOSITORY, "v1").await }
        });
        for (node, pulled) in join_all(pulls).await.into_iter().enumerate() {
            let pulled = pulled.unwrap_or_else(|e| panic!("{lie:?}, node{node}, again {again}: {e}"));
            assert_eq!((pulled.digest, pulled.bytes), (image.digest(), image.total_bytes()));
        }
        println!("{lie:?}, again {again}: all pulled after {:.2} s", started.elapsed().as_secs_f64());
    }
    let asked = liar.asked();
    println!("{lie:?}: the liar was asked for {asked} chunks, the registry sent {} bytes", registry.sent());
    assert!(asked > 0, "{lie:?}: nobody asked the liar, so nothing was tested");
    Seen {
        asked,
        rejected: cluster.sum("shoal_chunks_rejected_total").await,
        mismatches: cluster.sum("shoal_digest_mismatches_total").await,
        cluster,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_wrong_bytes() {
    let seen = pull_beside(Lie::WrongBytes, false).await;
    assert!(seen.rejected > 0.0);
    // It is not asked for ever: after some wrong chunks a node has enough of it.
    assert!(seen.asked <= 8 * NODES as u64, "asked {} times", seen.asked);
    let mut shunning = seen.cluster.nodes().iter().map(|node| node.output());
    assert!(shunning.any(|output| output.contains("a member lied repeatedly")));
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_another_chunk() {
    let seen = pull_beside(Lie::OtherChunk, false).await;
    assert!(seen.rejected > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_without_end() {
    pull_beside(Lie::Endless, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stalls() {
    pull_beside(Lie::Stall, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dies_in_the_middle_of_a_chunk() {
    pull_beside(Lie::Dies, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lacks_what_it_claims() {
    pull_beside(Lie::Lacks, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lacks_what_even_the_tracker_believes_it_has() {
    pull_beside(Lie::Lacks, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sends_wrong_bytes_of_what_the_tracker_believes_it_has() {
    let seen = pull_beside(Lie::WrongBytes, true).await;
    assert!(seen.rejected > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn is_always_busy() {
    pull_beside(Lie::Busy, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signs_for_wrong_bytes() {
    let seen = pull_beside(Lie::WrongEntries, false).await;
    assert!(seen.mismatches + seen.rejected > 0.0, "the wrong bytes were noticed by nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn signs_for_wrong_bytes_again_and_again() {
    let seen = pull_beside(Lie::WrongEntriesAlways, false).await;
    assert!(seen.mismatches + seen.rejected > 0.0, "the wrong bytes were noticed by nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn attests_a_wrong_map() {
    let seen = pull_beside(Lie::WrongMap, false).await;
    assert!(seen.mismatches + seen.rejected > 0.0, "the wrong bytes were noticed by nobody");
}
