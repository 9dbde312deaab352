//! Manifests, blobs, tags and referrers arrive with the headers that clients need.

use super::client::Mirror;
use super::shelf::{Shelf, content, digest_of};
use crate::connection::Patience;
use crate::{Passed, ProxyConfig, RouteLabel, Source};

const MANIFEST: &[u8] = br#"{"schemaVersion":2}"#;

#[tokio::test]
async fn ping() {
    let mirror = Mirror::start(Shelf::default()).await;
    for path in ["/v2/", "/v2"] {
        let reply = mirror.get(path).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("docker-distribution-api-version"), "registry/2.0");
        assert_eq!(reply.bytes().as_ref(), b"{}");
        assert_eq!(mirror.head(path).await.status, 200);
    }
}

#[tokio::test]
async fn a_ping_may_challenge_whoever_says_nothing_about_itself() {
    let config = ProxyConfig { challenge: true, ..ProxyConfig::default() };
    let shelf = Shelf::default().with_manifest(7, MANIFEST, None);
    let mirror = Mirror::start_with(shelf, config, Patience::default()).await;
    let reply = mirror.get("/v2/").await;
    assert_eq!(reply.status, 401);
    assert_eq!(reply.header("www-authenticate"), "Basic realm=\"registry\"");
    for credentials in ["Basic Og==", "Basic dTpw"] {
        assert_eq!(mirror.ask("GET", "/v2/", &[("authorization", credentials)]).await.status, 200);
    }
    // containerd never pings, so nothing else may depend on it.
    assert_eq!(mirror.get("/v2/app/manifests/latest").await.status, 200);
}

#[tokio::test]
async fn manifest_head_and_get_agree() {
    let mirror = Mirror::start(Shelf::default().with_manifest(7, MANIFEST, None)).await;
    let path = "/v2/library/app/manifests/latest?ns=docker.io";
    let (head, get) = (mirror.head(path).await, mirror.get(path).await);
    for reply in [&head, &get] {
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("docker-content-digest"), digest_of(7).to_string());
        assert_eq!(reply.header("etag"), format!("\"{}\"", digest_of(7)));
        assert_eq!(reply.header("content-type"), "application/vnd.oci.image.index.v1+json");
        assert_eq!(reply.header("content-length"), MANIFEST.len().to_string());
        assert_eq!(reply.header("oci-namespace"), "docker.io");
        assert_eq!(reply.header("x-shoal-source"), "swarm");
        assert_eq!(reply.header("x-shoal-stale"), "");
    }
    assert!(head.bytes().is_empty());
    assert_eq!(get.bytes().as_ref(), MANIFEST);
}

#[tokio::test]
async fn head_asks_the_backend_for_the_head_only() {
    let mirror = Mirror::start(Shelf::default().with_manifest(7, MANIFEST, None)).await;
    mirror.head("/v2/library/app/manifests/latest").await;
    assert!(mirror.shelf.last_asked().contains("head=true"));
}

#[tokio::test]
async fn a_stale_tag_says_its_age() {
    let mirror = Mirror::start(Shelf::default().with_manifest(7, MANIFEST, Some(95))).await;
    assert_eq!(mirror.get("/v2/app/manifests/latest").await.header("x-shoal-stale"), "95");
}

#[tokio::test]
async fn all_accept_lines_reach_the_backend() {
    let mirror = Mirror::start(Shelf::default().with_manifest(7, MANIFEST, None)).await;
    let lines = [("accept", "application/a"), ("accept", "application/b"), ("accept", "application/c, */*")];
    mirror.ask("GET", "/v2/app/manifests/latest", &lines).await;
    assert!(mirror.shelf.last_asked().ends_with("[application/a, application/b, application/c, */*]"));
}

#[tokio::test]
async fn a_manifest_of_another_digest_is_not_served() {
    let mirror = Mirror::start(Shelf::default().with_manifest(7, MANIFEST, None)).await;
    let reply = mirror.get(&format!("/v2/app/manifests/{}", digest_of(8))).await;
    assert_eq!(reply.status, 502);
    assert!(reply.error().1.contains(&digest_of(8).to_string()));
    assert_eq!(mirror.get(&format!("/v2/app/manifests/{}", digest_of(7))).await.status, 200);
}

#[tokio::test]
async fn blob_head_and_get_agree() {
    let mirror = Mirror::start(Shelf::default().with_blob(1, 2500, None)).await;
    let path = format!("/v2/library/app/blobs/{}", digest_of(1));
    let (head, get) = (mirror.head(&path).await, mirror.get(&path).await);
    for reply in [&head, &get] {
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("docker-content-digest"), digest_of(1).to_string());
        assert_eq!(reply.header("etag"), format!("\"{}\"", digest_of(1)));
        assert_eq!(reply.header("content-type"), "application/octet-stream");
        assert_eq!(reply.header("content-length"), "2500");
        assert_eq!(reply.header("accept-ranges"), "bytes");
        assert_eq!(reply.header("oci-namespace"), "docker.io");
        assert_eq!(reply.header("content-encoding"), "");
    }
    // The first piece tells better than the guess from before.
    assert_eq!((head.header("x-shoal-source"), get.header("x-shoal-source")), ("origin", "local"));
    assert!(head.bytes().is_empty());
    assert_eq!(get.bytes(), &content(2500));
}

#[tokio::test]
async fn compression_is_not_negotiated() {
    let mirror = Mirror::start(Shelf::default().with_blob(1, 2500, None)).await;
    let path = format!("/v2/library/app/blobs/{}", digest_of(1));
    let reply = mirror.ask("GET", &path, &[("accept-encoding", "zstd, gzip, deflate")]).await;
    assert_eq!(reply.bytes(), &content(2500));
    assert_eq!(reply.header("content-encoding"), "");
}

#[tokio::test]
async fn an_empty_blob() {
    let mirror = Mirror::start(Shelf::default().with_blob(1, 0, None)).await;
    let reply = mirror.get(&format!("/v2/app/blobs/{}", digest_of(1))).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-length")), (200, "0"));
    assert!(reply.bytes().is_empty());
}

#[tokio::test]
async fn content_that_the_client_has_is_not_sent_again() {
    let shelf = Shelf::default().with_blob(1, 2500, None).with_manifest(7, MANIFEST, None);
    let mirror = Mirror::start(shelf).await;
    for (path, fill) in
        [(format!("/v2/app/blobs/{}", digest_of(1)), 1), ("/v2/app/manifests/latest".into(), 7)]
    {
        let tag = format!("\"{}\"", digest_of(fill));
        let reply = mirror.ask("GET", &path, &[("if-none-match", &tag)]).await;
        assert_eq!(reply.status, 304);
        assert!(reply.bytes().is_empty());
        assert_eq!(reply.header("etag"), tag);
        assert_eq!(mirror.ask("GET", &path, &[("if-none-match", "\"x\"")]).await.status, 200);
    }
}

#[tokio::test]
async fn tags_are_passed_and_their_next_page_leads_here() {
    let passed = Passed {
        content_type: "application/json".into(),
        link: Some("<https://evil.test/v2/x/tags/list?last=b&n=2&ns=evil.test>; rel=\"next\"".into()),
        body: br#"{"tags":["a","b"]}"#.as_slice().into(),
        ..Passed::default()
    };
    let mirror = Mirror::start(Shelf { passed, ..Shelf::default() }).await;
    let reply = mirror.get("/v2/team/app/tags/list?n=2&ns=registry.test&last=a%26b").await;
    assert_eq!(mirror.shelf.last_asked(), "Tags registry.test team/app [n=2&last=a%26b]");
    assert_eq!(reply.bytes().as_ref(), br#"{"tags":["a","b"]}"#);
    assert_eq!(reply.header("link"), "</v2/team/app/tags/list?last=b&n=2&ns=registry.test>; rel=\"next\"");
    assert_eq!(reply.header("oci-namespace"), "registry.test");
    assert_eq!(reply.header("x-shoal-source"), "origin");
}

#[tokio::test]
async fn a_prefix_stays_in_the_next_page() {
    let link = Some("</v2/team/app/tags/list?last=b>; rel=next".into());
    let mirror =
        Mirror::start(Shelf { passed: Passed { link, ..Passed::default() }, ..Shelf::default() }).await;
    let reply = mirror.get("/v2/registry.test/team/app/tags/list").await;
    assert_eq!(reply.header("link"), "</v2/registry.test/team/app/tags/list?last=b>; rel=\"next\"");
}

#[tokio::test]
async fn referrers_are_passed_with_their_filter() {
    let passed = Passed {
        content_type: "application/vnd.oci.image.index.v1+json".into(),
        filters_applied: Some("artifactType".into()),
        link: Some("garbage".into()),
        body: b"{}".as_slice().into(),
    };
    let mirror = Mirror::start(Shelf { passed, ..Shelf::default() }).await;
    let reply = mirror.get(&format!("/v2/app/referrers/{}?artifactType=a%2Fb", digest_of(3))).await;
    let asked = format!("Referrers({}) docker.io library/app [artifactType=a%2Fb]", digest_of(3));
    assert_eq!(mirror.shelf.last_asked(), asked);
    assert_eq!(reply.header("oci-filters-applied"), "artifactType");
    assert_eq!(reply.header("content-type"), "application/vnd.oci.image.index.v1+json");
    assert_eq!(reply.header("link"), "");
}

#[tokio::test]
async fn callers_reach_the_backend_and_empty_ones_are_anonymous() {
    let mirror = Mirror::start(Shelf::default().with_manifest(7, MANIFEST, None)).await;
    let path = "/v2/app/manifests/latest";
    mirror.ask("GET", path, &[("authorization", "Basic Og==")]).await;
    mirror.ask("GET", path, &[("authorization", "Bearer abc")]).await;
    let callers = mirror.shelf.callers.lock().unwrap();
    assert!(callers[0].authorization.is_none());
    assert_eq!(callers[1].authorization.as_ref().unwrap().expose(), "Bearer abc");
}

#[tokio::test]
async fn what_happens_is_counted() {
    let shelf = Shelf::default().with_blob(1, 2500, None).with_manifest(7, MANIFEST, None);
    let mirror = Mirror::start(shelf).await;
    mirror.get(&format!("/v2/app/blobs/{}", digest_of(1))).await;
    mirror.get(&format!("/v2/app/blobs/{}", digest_of(2))).await;
    mirror.get("/v2/app/manifests/latest").await;
    let counted = mirror.metrics.snapshot();
    let requests =
        [(RouteLabel::Manifest, "2xx", 1), (RouteLabel::Blob, "2xx", 1), (RouteLabel::Blob, "4xx", 1)];
    assert_eq!(counted.requests, requests);
    let sent = [(Source::Local, 2500), (Source::Swarm, MANIFEST.len() as u64), (Source::Origin, 0)];
    assert_eq!(counted.sent_bytes, sent);
    assert_eq!(counted.cut_bodies, 0);
}
