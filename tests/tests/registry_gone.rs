//! With the registry stopped, what the cluster holds is served on: public images to everybody, private
//! ones to nobody whom the registry did not authorise before.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use shoal_tests::{
    Cluster, Containerd, Credentials, ImageBuilder, Needs, Podman, Registry, Skopeo, available,
};

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";
const REFERENCE: &str = "registry.test/library/app:v1";

fn image(seed: u64) -> ImageBuilder {
    ImageBuilder::new(seed).layer(9 << 20).layer(200)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_image_is_pulled_by_tag_and_digest_from_another_node() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let mut registry = Registry::start().await;
    let image = image(1).multi_platform().build();
    registry.push(&image, REPOSITORY, "v1").await;
    let builder = Cluster::builder().nodes(3).registry(NAME, &registry.url());
    let cluster = builder.mirror("tag_ttl = \"0s\"").start().await;
    cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    let sent = registry.content_bytes().await;
    registry.stop().await;

    for (node, reference) in [(0, "v1".to_owned()), (1, image.digest().to_string()), (2, "v1".to_owned())] {
        let pulled = cluster.node(node).puller(NAME).pull(REPOSITORY, &reference).await;
        let pulled = pulled.unwrap_or_else(|e| panic!("node{node} {reference}: {e}"));
        assert_eq!((pulled.digest, pulled.bytes), (image.digest(), image.total_bytes()));
        assert_eq!(
            pulled.stale,
            reference == "v1",
            "an answer for a tag is marked stale, one by digest never is"
        );
    }
    assert_eq!(registry.content_bytes().await, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_got_from_others_it_serves_when_all_others_are_gone() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let mut registry = Registry::start().await;
    let image = image(5).multi_platform().build();
    registry.push(&image, REPOSITORY, "v1").await;
    let builder = Cluster::builder().nodes(2).registry(NAME, &registry.url());
    let mut cluster = builder.mirror("tag_ttl = \"0s\"").start().await;
    cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    registry.stop().await;
    // This node never asked the registry: that anybody may read, and what the tag means, it has from the other one.
    cluster.node(1).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();

    cluster.node_mut(0).stop().await;
    cluster.node_mut(1).restart().await;
    cluster.scheduler().stop().await;
    for reference in ["v1".to_owned(), image.digest().to_string()] {
        let pulled = cluster.node(1).puller(NAME).pull(REPOSITORY, &reference).await;
        let pulled = pulled.unwrap_or_else(|e| panic!("{reference}: {e}"));
        assert_eq!((pulled.digest, pulled.bytes), (image.digest(), image.total_bytes()));
    }
    cluster.node(1).puller(NAME).pull("library/other", "v1").await.expect_err("nobody said that it is open");
    let log = cluster.node(1).output();
    let line =
        log.lines().find(|line| line.contains("request refused")).expect("a failed pull is in the log");
    assert!(
        line.contains("WARN") && line.contains("503") && line.contains("registry.test/library/other:v1"),
        "{line}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_asked_for_its_login_pulls_a_private_image_again() {
    if !available(Needs::CONTAINERD) {
        return;
    }
    let login = Credentials::new("alice", "correct horse");
    let mut registry = Registry::private(login.clone()).await;
    let image = image(6).build();
    registry.push(&image, REPOSITORY, "v1").await;
    let builder = Cluster::builder().registry(NAME, &registry.url());
    let cluster = builder.mirror("tag_ttl = \"0s\"").start().await;
    let node = cluster.node(0);
    Containerd::start().await.pull(REFERENCE, node.mirror(), Some(&login)).await.unwrap();
    registry.stop().await;

    let containerd = Containerd::start().await;
    containerd.pull(REFERENCE, node.mirror(), Some(&login)).await.unwrap();
    containerd.verify(REFERENCE, &image).await.unwrap();
    let wrong = Credentials::new("alice", "wrong horse");
    for (login, status) in [(None, 401), (Some(&wrong), 403)] {
        let puller = node.puller(NAME).login(login);
        for reference in ["v1".to_owned(), image.digest().to_string()] {
            let refused = puller.pull(REPOSITORY, &reference).await.expect_err("not let in");
            assert_eq!(refused.status(), Some(status), "{refused}");
        }
        let refused = puller.blob(REPOSITORY, &image.here().layers[0].digest).await;
        assert_eq!(refused.expect_err("not let in").status(), Some(status));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_real_clients_pull_a_public_image() {
    if !(available(Needs::CONTAINERD) && available(Needs::PODMAN) && available(Needs::SKOPEO)) {
        return;
    }
    let mut registry = Registry::start().await;
    let image = image(2).build();
    registry.push(&image, REPOSITORY, "v1").await;
    let cluster = Cluster::builder().nodes(2).registry(NAME, &registry.url()).start().await;
    cluster.node(0).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    registry.stop().await;

    let by_digest = format!("{NAME}/{REPOSITORY}@{}", image.digest());
    for mirror in [cluster.node(0).mirror(), cluster.node(1).mirror()] {
        for reference in [REFERENCE, by_digest.as_str()] {
            let containerd = Containerd::start().await;
            containerd.pull(reference, mirror, None).await.unwrap();
            containerd.verify(reference, &image).await.unwrap();
            let podman = Podman::new();
            podman.pull(reference, mirror, None).await.unwrap();
            podman.verify(reference, &image).await.unwrap();
            let skopeo = Skopeo::new();
            skopeo.pull(reference, mirror, None).await.unwrap();
            skopeo.verify(&image).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_is_refused_to_who_was_not_authorised() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let login = Credentials::new("alice", "correct horse");
    let mut registry = Registry::private(login.clone()).await;
    let image = image(3).build();
    registry.push(&image, REPOSITORY, "v1").await;
    let cluster = Cluster::builder().nodes(2).registry(NAME, &registry.url()).start().await;
    let alice = |node: usize| cluster.node(node).puller(NAME).login(Some(&login));
    alice(0).pull(REPOSITORY, "v1").await.unwrap();

    let layer = image.here().layers[0].digest;
    let mallory = Credentials::new("mallory", "correct horse");
    for stopped in [false, true] {
        if stopped {
            registry.stop().await;
        }
        for node in [0, 1] {
            for login in [None, Some(&mallory)] {
                let puller = cluster.node(node).puller(NAME).login(login);
                for reference in ["v1".to_owned(), image.digest().to_string()] {
                    let error = puller.pull(REPOSITORY, &reference).await.expect_err("not authorised");
                    assert!(error.status().is_some(), "refused with an answer, not a cut: {error}");
                }
                puller.blob(REPOSITORY, &layer).await.expect_err("possession of a digest is no right");
                let elsewhere = puller.blob("library/other", &layer).await;
                elsewhere.expect_err("nor does naming another repository give one");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_the_registry_no_longer_has_is_not_served_stale() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let registry = shoal_tests::FaultyRegistry::start().await;
    let image = image(4).build();
    registry.serve(&image, REPOSITORY, "v1");
    let builder = Cluster::builder().registry(NAME, &registry.url());
    let cluster = builder.mirror("tag_ttl = \"0s\"").start().await;
    let puller = cluster.node(0).puller(NAME);
    puller.pull(REPOSITORY, "v1").await.unwrap();

    for status in [500, 502, 503, 429] {
        registry.fault("/manifests/v1", shoal_tests::Fault::Status(status));
        assert!(
            puller.pull(REPOSITORY, "v1").await.unwrap().stale,
            "{status} is answered from what is known"
        );
    }
    for status in [401, 403, 404] {
        registry.fault("/manifests/v1", shoal_tests::Fault::Status(status));
        puller.pull(REPOSITORY, "v1").await.expect_err("the registry said no");
    }
}
