//! Where a registry stands, and what stands before it: IPv6, and a proxy that the environment names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use shoal_tests::{Cluster, FaultyRegistry, Image, ImageBuilder};

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";

fn image(registry: &FaultyRegistry, seed: u64) -> Image {
    let image = ImageBuilder::new(seed).layer(1 << 20).layer(300).build();
    registry.serve(&image, REPOSITORY, "v1");
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn over_ipv6() {
    let registry = FaultyRegistry::on("[::1]:0").await;
    let image = image(&registry, 1);
    let cluster = Cluster::builder().registry(NAME, &registry.url()).start().await;
    let pulled = cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    assert_eq!(pulled.bytes, image.total_bytes());
}

/// No such host exists: only the proxy, which here is the registry itself, can be asked for it.
#[tokio::test(flavor = "multi_thread")]
async fn through_the_proxy_of_the_environment() {
    let proxy = FaultyRegistry::start().await;
    let image = image(&proxy, 2);
    let cluster = || {
        let builder = Cluster::builder().without_scheduler().registry(NAME, "http://registry.invalid");
        builder.environment("HTTP_PROXY", &proxy.url()).environment("http_proxy", &proxy.url())
    };
    let by_proxy = cluster().start().await;
    let pulled = by_proxy.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    assert_eq!(pulled.bytes, image.total_bytes());

    let asked = proxy.received().len();
    let without = cluster().environment("NO_PROXY", "registry.invalid").start().await;
    without.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap_err();
    assert_eq!(proxy.received().len(), asked, "the proxy was asked for what NO_PROXY names");
}
