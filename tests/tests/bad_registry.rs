//! A registry that misbehaves: clients get a clear error or the right bytes, never wrong ones, and the
//! daemon lives on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Method;
use serde_json::Value;
use shoal_tests::{Cluster, Fault, FaultyRegistry, Image, ImageBuilder, PullError, Puller};

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";

struct Scene {
    registry: FaultyRegistry,
    image: Image,
    cluster: Cluster,
}

impl Scene {
    async fn new(seed: u64) -> Self {
        let registry = FaultyRegistry::start().await;
        let image = ImageBuilder::new(seed).layer(5 << 20).layer(300).build();
        registry.serve(&image, REPOSITORY, "v1");
        let builder = Cluster::builder().registry(NAME, &registry.url());
        let cluster = builder.mirror("tag_ttl = \"0s\"").start().await;
        Self { registry, image, cluster }
    }

    fn puller(&self) -> Puller {
        self.cluster.node(0).puller(NAME)
    }

    fn layer(&self) -> String {
        self.image.here().layers[0].digest.to_string()
    }

    fn manifest(&self) -> String {
        format!("/manifests/{}", self.image.digest())
    }

    /// The pull fails; with the fault gone the same node delivers, so nothing wrong was kept.
    async fn fails_then_recovers(mut self, part: &str, fault: Fault) -> PullError {
        self.registry.fault(part, fault.clone());
        let error = self.puller().pull(REPOSITORY, "v1").await.expect_err(&format!("{fault:?} on {part}"));
        assert!(!matches!(error, PullError::WrongBytes { .. }), "wrong bytes were delivered: {error}");
        assert!(self.cluster.node_mut(0).is_alive());
        self.registry.recover();
        let pulled =
            self.puller().pull(REPOSITORY, "v1").await.unwrap_or_else(|e| panic!("after {fault:?}: {e}"));
        assert_eq!(pulled.bytes, self.image.total_bytes());
        error
    }
}

/// The errors of the OCI distribution specification, "Error Codes".
fn assert_oci_error(error: &PullError) {
    let PullError::Status { status, body, .. } = error else { panic!("not an answer: {error}") };
    // A HEAD has no body to explain itself in.
    if !body.is_empty() {
        let body: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{status}: not JSON: {body}"));
        assert!(body["errors"][0]["code"].is_string(), "{status}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_short_long_wrong_endless_or_cut_is_never_delivered() {
    for fault in [Fault::Short(70_000), Fault::Long(9), Fault::Flip, Fault::CutAfter(70_000), Fault::Endless]
    {
        let scene = Scene::new(1).await;
        let layer = scene.layer();
        scene.fails_then_recovers(&layer, fault).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_that_happens_once_is_mended() {
    let scene = Scene::new(2).await;
    scene.registry.fault_times(&scene.layer(), Fault::CutAfter(3 << 20), 1);
    let pulled = scene.puller().pull(REPOSITORY, "v1").await.unwrap();
    assert_eq!(pulled.bytes, scene.image.total_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_range_and_a_slow_one_deliver() {
    for fault in [Fault::NoRange, Fault::Slow(2 << 20)] {
        let scene = Scene::new(3).await;
        scene.registry.fault("/blobs/", fault);
        let pulled = scene.puller().pull(REPOSITORY, "v1").await.unwrap();
        assert_eq!(pulled.bytes, scene.image.total_bytes());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_with_other_bytes_than_its_digest_is_refused() {
    for fault in
        [Fault::Flip, Fault::Short(20), Fault::Replace("{}".into()), Fault::Replace("not json".into())]
    {
        let scene = Scene::new(4).await;
        let manifest = scene.manifest();
        let error = scene.fails_then_recovers(&manifest, fault).await;
        assert_oci_error(&error);
        assert!(error.status().unwrap() >= 500, "the registry's fault, not the client's: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_too_long_is_refused_without_reading_it_all() {
    let huge = vec![b' '; 64 << 20];
    for fault in [Fault::Replace(huge.into()), Fault::Endless] {
        let scene = Scene::new(5).await;
        let manifest = scene.manifest();
        let error = scene.fails_then_recovers(&manifest, fault).await;
        assert_oci_error(&error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registrys_refusal_reaches_the_client_as_it_is() {
    for status in [401, 403, 404] {
        let scene = Scene::new(6).await;
        scene.registry.fault("/v2/", Fault::Status(status));
        let error = scene.puller().pull(REPOSITORY, "v1").await.unwrap_err();
        assert_eq!(error.status(), Some(status), "{error}");
        let answer = scene.puller().send(Method::GET, &format!("{REPOSITORY}/manifests/v1")).await.unwrap();
        let body: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        let code = body["errors"][0]["code"].as_str().unwrap();
        assert!(
            matches!(code, "UNAUTHORIZED" | "DENIED" | "MANIFEST_UNKNOWN" | "NAME_UNKNOWN"),
            "{status}: {code}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_in_trouble_is_an_error_that_says_so() {
    for (fault, want) in [(Fault::Status(500), 502..=503), (Fault::TooMany(60), 429..=429)] {
        let scene = Scene::new(7).await;
        scene.registry.fault("/v2/", fault);
        let error = scene.puller().pull(REPOSITORY, "v1").await.unwrap_err();
        assert!(want.contains(&error.status().unwrap()), "{error}");
        let answer = scene.puller().send(Method::GET, &format!("{REPOSITORY}/manifests/v1")).await.unwrap();
        let retry_after = answer.headers().contains_key("retry-after");
        assert!(answer.status() != 429 || retry_after, "429 without Retry-After");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_short_supply_are_waited_for() {
    let scene = Scene::new(8).await;
    scene.registry.fault_times(&scene.layer(), Fault::TooMany(1), 2);
    let pulled = scene.puller().pull(REPOSITORY, "v1").await.unwrap();
    assert_eq!(pulled.bytes, scene.image.total_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_realm_gets_no_credentials() {
    let thief = FaultyRegistry::start().await;
    let scene = Scene::new(9).await;
    // Another host than the registry's; on the same host a token server may listen on any port.
    let elsewhere = thief.url().replace("127.0.0.1", "localhost");
    let realm = format!("Bearer realm=\"{elsewhere}/token\",service=\"registry.test\"");
    scene.registry.fault("/v2/", Fault::Challenge(realm));
    let login = shoal_tests::Credentials::new("alice", "correct horse");
    scene.puller().login(Some(&login)).pull(REPOSITORY, "v1").await.expect_err("no token, no image");
    let stolen: Vec<_> = thief.received().into_iter().filter(|r| r.authorization.is_some()).collect();
    assert!(stolen.is_empty(), "{stolen:?}");
    let output = scene.cluster.node(0).output();
    assert!(
        !output.contains("correct horse") && !output.contains(&login.basic()[6..]),
        "credentials in the log"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_into_this_machine_is_not_followed() {
    let inside = FaultyRegistry::start().await;
    let scene = Scene::new(10).await;
    inside.serve(&scene.image, REPOSITORY, "v1");
    let layer = scene.layer();
    // Another host than the registry's, which was configured and so may be inside.
    let target = format!("{}/v2/{REPOSITORY}/blobs/{layer}", inside.url().replace("127.0.0.1", "localhost"));
    scene.fails_then_recovers(&layer, Fault::Redirect(target)).await;
    assert!(inside.received().is_empty(), "{:?}", inside.received());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lying_digest_header_does_not_name_another_image() {
    let scene = Scene::new(11).await;
    scene.registry.fault("/manifests/v1", Fault::LyingHeader);
    let result = scene.puller().pull(REPOSITORY, "v1").await;
    assert!(result.as_ref().map_or(true, |pulled| pulled.digest == scene.image.digest()), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_never_delivered_in_place_of_something() {
    let scene = Scene::new(13).await;
    let layer = &scene.image.here().layers[0];
    let paths = [format!("{REPOSITORY}/blobs/{}", layer.digest), format!("{REPOSITORY}{}", scene.manifest())];
    for path in &paths {
        scene.registry.fault(path, Fault::Replace(Bytes::new()));
        for method in [Method::HEAD, Method::GET] {
            let answer = scene.puller().send(method.clone(), path).await.unwrap();
            assert!(!answer.status().is_success(), "{method} {path}: {}", answer.status());
        }
        scene.registry.recover();
    }
    // A registry that does not tell a size in answer to HEAD is asked in another way.
    for path in &paths {
        scene.registry.fault(path, Fault::EmptyHead);
    }
    for path in &paths {
        let answer = scene.puller().send(Method::HEAD, path).await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        assert_ne!(answer.headers()["content-length"], "0", "{path}");
    }
    let read = scene.puller().blob(REPOSITORY, &layer.digest).await.unwrap();
    assert_eq!(read, layer.bytes.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_copy_elsewhere_does_not_spoil_a_right_one() {
    let (good, bad) = (FaultyRegistry::start().await, FaultyRegistry::start().await);
    let image = ImageBuilder::new(12).layer(5 << 20).build();
    good.serve(&image, REPOSITORY, "v1");
    bad.serve(&image, REPOSITORY, "v1");
    bad.fault(&image.here().layers[0].digest.to_string(), Fault::Flip);
    let builder = Cluster::builder().nodes(3).registry("good.test", &good.url());
    let mut cluster = builder.registry("bad.test", &bad.url()).start().await;

    let spoiled = cluster.node(0).puller("bad.test").pull(REPOSITORY, "v1").await;
    assert!(!matches!(spoiled, Err(PullError::WrongBytes { .. }) | Ok(_)), "{spoiled:?}");
    for node in 0..3 {
        let pulled = cluster.node(node).puller("good.test").pull(REPOSITORY, "v1").await;
        assert_eq!(pulled.unwrap_or_else(|e| panic!("node{node}: {e}")).bytes, image.total_bytes());
        assert!(cluster.node_mut(node).is_alive());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_never_answers_does_not_hold_others_up() {
    let scene = Scene::new(13).await;
    scene.registry.fault(&scene.layer(), Fault::Slow(1));
    let stuck = scene.puller();
    let layer = scene.image.here().layers[0].digest;
    let waiting = tokio::spawn(async move { stuck.blob(REPOSITORY, &layer).await });
    let small = scene.image.here().layers[1].digest;
    let started = Instant::now();
    scene.puller().blob(REPOSITORY, &small).await.unwrap();
    println!("a small blob beside a stuck one: {:.3} s", started.elapsed().as_secs_f64());
    assert!(started.elapsed() < Duration::from_secs(30), "held up");
    waiting.abort();
}
