//! The fixtures themselves: real clients pull straight from the real registry, and what the registry
//! logged is what was transferred.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use shoal_tests::{
    Containerd, Credentials, Fault, FaultyRegistry, Format, Image, ImageBuilder, Needs, Podman, Puller,
    Registry, Skopeo, available,
};

const REFERENCE: &str = "registry.test/library/app:v1";
const REPOSITORY: &str = "library/app";

fn login() -> Credentials {
    Credentials::new("alice", "correct horse")
}

/// Each form in which images come.
fn images() -> Vec<Image> {
    let image = |seed| ImageBuilder::new(seed).layer(300_000).compressible_layer(50_000);
    vec![
        image(1).build(),
        image(2).format(Format::DockerSchema2).build(),
        image(3).multi_platform().build(),
        image(4).format(Format::DockerSchema2).multi_platform().build(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_pulls_every_form_from_the_registry() {
    if !available(Needs::CONTAINERD) {
        return;
    }
    for registry in [Registry::start().await, Registry::private(login()).await] {
        for image in images() {
            registry.push(&image, REPOSITORY, "v1").await;
            let containerd = Containerd::start().await;
            containerd.pull(REFERENCE, registry.address(), registry.credentials()).await.unwrap();
            containerd.verify(REFERENCE, &image).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn podman_pulls_every_form_from_the_registry() {
    if !available(Needs::PODMAN) {
        return;
    }
    for registry in [Registry::start().await, Registry::private(login()).await] {
        for image in images() {
            registry.push(&image, REPOSITORY, "v1").await;
            let podman = Podman::new();
            podman.pull(REFERENCE, registry.address(), registry.credentials()).await.unwrap();
            podman.verify(REFERENCE, &image).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn skopeo_pulls_every_form_from_the_registry() {
    if !available(Needs::SKOPEO) {
        return;
    }
    for registry in [Registry::start().await, Registry::private(login()).await] {
        for image in images() {
            registry.push(&image, REPOSITORY, "v1").await;
            let skopeo = Skopeo::new();
            skopeo.pull(REFERENCE, registry.address(), registry.credentials()).await.unwrap();
            skopeo.verify(&image).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_without_credentials_are_refused_by_a_private_registry() {
    if !available(Needs::SKOPEO) {
        return;
    }
    let registry = Registry::private(login()).await;
    registry.push(&images()[0], REPOSITORY, "v1").await;
    let error = Skopeo::new().pull(REFERENCE, registry.address(), None).await.unwrap_err();
    assert!(error.to_string().contains("unauthorized"), "{error}");
    let wrong = Credentials::new("alice", "guess");
    Skopeo::new().pull(REFERENCE, registry.address(), Some(&wrong)).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_access_log_counts_what_was_sent() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let mut registry = Registry::start().await;
    let image = ImageBuilder::new(5).layer(3 << 20).layer(100).multi_platform().build();
    registry.push(&image, REPOSITORY, "v1").await;
    assert_eq!(registry.content_bytes().await, 0, "pushing is no download");

    let puller = Puller::new(&registry.url(), "registry.test");
    let pulled = puller.pull(REPOSITORY, "v1").await.unwrap();
    assert_eq!((pulled.digest, pulled.bytes), (image.digest(), image.total_bytes()));
    assert_eq!(registry.content_bytes().await, image.total_bytes());
    assert_eq!(registry.blob_bytes().await, image.blob_bytes());
    assert_eq!(registry.manifest_gets().await.len(), 2);

    registry.stop().await;
    puller.pull(REPOSITORY, "v1").await.unwrap_err();
    assert_eq!(registry.content_bytes().await, image.total_bytes());
    registry.start_again().await;
    puller.pull(REPOSITORY, &image.digest().to_string()).await.unwrap();
    assert_eq!(registry.content_bytes().await, 2 * image.total_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn sha512_and_artifacts_are_stored() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let registry = Registry::start().await;
    let images = [
        ImageBuilder::new(6).layer(100_000).sha512().build(),
        ImageBuilder::new(7).layer(100_000).artifact("application/vnd.example.weights").build(),
    ];
    for image in images {
        registry.push(&image, REPOSITORY, "v1").await;
        let pulled = Puller::new(&registry.url(), "registry.test").pull(REPOSITORY, "v1").await.unwrap();
        assert_eq!(pulled.bytes, image.total_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_folder_is_one_that_skopeo_reads() {
    if !available(Needs::SKOPEO) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = &images()[0];
    image.write_layout(&folder.path().join("layout"), "v1");
    let copy = tokio::process::Command::new("skopeo")
        .args(["--insecure-policy", "copy"])
        .arg(format!("oci:{}:v1", folder.path().join("layout").display()))
        .arg(format!("dir:{}", folder.path().join("copy").display()))
        .output()
        .await
        .unwrap();
    assert!(copy.status.success(), "{}", String::from_utf8_lossy(&copy.stderr));
    assert_eq!(std::fs::read(folder.path().join("copy/manifest.json")).unwrap(), image.root.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_registry_misbehaves_as_told() {
    let registry = FaultyRegistry::start().await;
    let image = ImageBuilder::new(8).layer(200_000).build();
    registry.serve(&image, REPOSITORY, "v1");
    let puller = Puller::new(&registry.url(), "registry.test");
    puller.pull(REPOSITORY, "v1").await.unwrap();
    assert_eq!(registry.sent(), image.total_bytes());

    let layer = image.here().layers[0].digest.to_string();
    for fault in [Fault::Short(100), Fault::Long(5), Fault::Flip, Fault::CutAfter(70_000)] {
        registry.recover();
        registry.fault(&layer, fault.clone());
        puller.pull(REPOSITORY, "v1").await.expect_err(&format!("{fault:?}"));
    }
    registry.recover();
    registry.fault_times(&layer, Fault::TooMany(1), 1);
    assert_eq!(puller.pull(REPOSITORY, "v1").await.unwrap_err().status(), Some(429));
    puller.pull(REPOSITORY, "v1").await.unwrap();
    assert!(registry.received().iter().all(|request| request.authorization.is_none()));
}
