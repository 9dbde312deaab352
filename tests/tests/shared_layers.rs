//! Layers are kept once, whatever registry they came from. What came from a private repository is given to the
//! callers of another registry only if that registry has the same bytes.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use shoal_tests::{Cluster, Credentials, Fault, FaultyRegistry, ImageBuilder, Needs, Registry, available};

const PRIVATE: &str = "private.test";
const OPEN: &str = "open.test";
const REPOSITORY: &str = "library/app";

/// A cluster of one node whose cache holds the image from the private registry, and an open registry that serves
/// the same image, or does as `fault` says.
async fn pull_from_both(fault: Option<Fault>) -> (Result<u64, String>, u64) {
    let alice = Credentials::new("alice", "correct horse");
    let private = Registry::private(alice.clone()).await;
    let image = ImageBuilder::new(41).layer(3 << 20).layer(9000).build();
    private.push(&image, REPOSITORY, "v1").await;
    let open = FaultyRegistry::start().await;
    open.serve(&image, REPOSITORY, "v1");
    let builder = Cluster::builder().registry(PRIVATE, &private.url()).registry(OPEN, &open.url());
    let cluster = builder.start().await;
    let node = cluster.node(0);
    node.puller(PRIVATE).login(Some(&alice)).pull(REPOSITORY, "v1").await.unwrap();
    if let Some(fault) = fault {
        open.fault("/blobs/", fault);
    }
    let pulled = node.puller(OPEN).pull(REPOSITORY, "v1").await;
    (pulled.map(|pulled| pulled.bytes).map_err(|error| error.to_string()), open.sent())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_has_the_layer_too_needs_not_send_it() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let (pulled, sent) = pull_from_both(None).await;
    pulled.unwrap();
    assert!(sent < shoal_proto::MIN_CHUNK, "{sent} bytes of a layer that is cached");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_only_claims_to_have_it_gets_nothing_for_its_callers() {
    if !available(Needs::REGISTRY) {
        return;
    }
    for fault in [Fault::Flip, Fault::Status(404), Fault::NoRange] {
        let told = format!("{fault:?}");
        let (pulled, _) = pull_from_both(Some(fault)).await;
        pulled.expect_err(&told);
    }
}
