//! A private image that one caller pulled is in the cache of the cluster, and nobody else gets it from there:
//! neither with another identity nor with none, neither from the same node nor from another one, neither while
//! the registry answers nor after it is gone. Who was authorised still gets it then.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use futures_util::future::join_all;
use reqwest::Method;
use shoal_tests::{Cluster, Credentials, Image, ImageBuilder, Needs, Puller, Registry, available};

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";

/// Refused by tag and by digest, GET and HEAD, manifest and layer, under this and under another name.
async fn assert_refused(puller: &Puller, image: &Image, who: &str) {
    let layer = image.here().layers[0].digest;
    let manifest = image.digest();
    let paths = [REPOSITORY, "library/other"].into_iter().flat_map(|repository| {
        [
            format!("{repository}/manifests/v1"),
            format!("{repository}/manifests/{manifest}"),
            format!("{repository}/blobs/{layer}"),
        ]
    });
    let requests = paths.flat_map(|path| [(Method::HEAD, path.clone()), (Method::GET, path)]);
    // At once: while the registry is gone, each waits until that is certain.
    let refused = requests.map(|(method, path)| async move {
        let answer = puller.send(method.clone(), &path).await.unwrap();
        let status = answer.status();
        assert!(status.is_client_error() || status.is_server_error(), "{who}: {method} {path}: {status}");
        let body = answer.bytes().await.unwrap();
        assert!(body.len() < 4096, "{who}: {method} {path}: {} bytes with {status}", body.len());
    });
    join_all(refused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gets_nothing_of_what_another_one_pulled() {
    if !available(Needs::REGISTRY) {
        return;
    }
    let alice = Credentials::new("alice", "correct horse");
    let mut registry = Registry::private(alice.clone()).await;
    let image = ImageBuilder::new(31).layer(5 << 20).layer(200).build();
    registry.push(&image, REPOSITORY, "v1").await;
    let builder = Cluster::builder().nodes(3).registry(NAME, &registry.url());
    let cluster = builder.mirror("tag_ttl = \"0s\"").start().await;
    let puller = |node: usize, login: Option<&Credentials>| cluster.node(node).puller(NAME).login(login);
    // On nodes 0 and 1; node 2 has nothing.
    for node in [0, 1] {
        let pulled = puller(node, Some(&alice)).pull(REPOSITORY, "v1").await.unwrap();
        assert_eq!(pulled.bytes, image.total_bytes());
    }
    let sent = registry.content_bytes().await;

    let others = [
        ("nobody", None),
        ("another user", Some(Credentials::new("mallory", "correct horse"))),
        ("the same user with another password", Some(Credentials::new("alice", "wrong horse"))),
    ];
    for stopped in [false, true] {
        if stopped {
            registry.stop().await;
        }
        for node in 0..3 {
            for (who, login) in &others {
                let who = format!("{who} at node{node}, registry stopped: {stopped}");
                assert_refused(&puller(node, login.as_ref()), &image, &who).await;
            }
        }
        // Not even what the refusals above might have left behind changes what the others may do.
        for node in [0, 1] {
            for reference in ["v1".to_owned(), image.digest().to_string()] {
                let pulled = puller(node, Some(&alice)).pull(REPOSITORY, &reference).await;
                let pulled =
                    pulled.unwrap_or_else(|e| panic!("node{node} {reference}, stopped {stopped}: {e}"));
                assert_eq!((pulled.digest, pulled.bytes), (image.digest(), image.total_bytes()));
            }
        }
    }
    // No node vouches for what another one learned: at node 2 nobody was authorised before.
    assert_refused(&puller(2, Some(&alice)), &image, "alice where she never was").await;
    assert_eq!(registry.content_bytes().await, sent, "everything came from the caches");
}
