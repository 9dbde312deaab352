//! Errors have the status, code and headers that clients act on, and say what to do.

use std::time::Duration;

use super::client::Mirror;
use super::shelf::{Shelf, digest_of};
use crate::Refusal;

#[tokio::test]
async fn each_refusal_has_its_status_and_code() {
    let reason = || "it said so".to_string();
    for (refusal, status, code) in [
        (Refusal::ManifestUnknown, 404, "MANIFEST_UNKNOWN"),
        (Refusal::BlobUnknown, 404, "BLOB_UNKNOWN"),
        (Refusal::NameUnknown, 404, "NAME_UNKNOWN"),
        (Refusal::Unauthorized { challenges: vec![] }, 401, "UNAUTHORIZED"),
        (Refusal::Denied { reason: reason() }, 403, "DENIED"),
        (Refusal::NotAllowed { registry: "r.example".parse().unwrap() }, 403, "DENIED"),
        (Refusal::Throttled { retry_after: None }, 429, "TOOMANYREQUESTS"),
        (Refusal::UpstreamFailed { reason: reason() }, 502, "UNKNOWN"),
        (Refusal::Unavailable { reason: reason() }, 503, "UNAVAILABLE"),
        (Refusal::ManifestInvalid { reason: reason() }, 502, "MANIFEST_INVALID"),
    ] {
        let mirror = Mirror::start(Shelf::refusing(refusal.clone())).await;
        for path in [
            "/v2/team/app/manifests/latest?ns=registry.test".into(),
            format!("/v2/registry.test/team/app/blobs/{}", digest_of(1)),
            "/v2/registry.test/team/app/tags/list".into(),
        ] {
            let reply = mirror.get(&path).await;
            let (found, message) = reply.error();
            assert_eq!((reply.status.as_u16(), found.as_str()), (status, code), "{refusal:?}");
            assert!(message.starts_with("registry.test/team/app"), "{message}");
            assert!(message.ends_with(&refusal.to_string()), "{message}");
            let head = mirror.head(&path).await;
            assert_eq!(head.status, status);
            assert!(head.bytes().is_empty());
        }
    }
}

#[tokio::test]
async fn the_upstreams_challenges_are_relayed() {
    let bearer = "Bearer realm=\"https://auth.test/token\",service=\"registry.test\"";
    let challenges = vec![bearer.into(), "Basic realm=\"x\"".into(), "bad\nheader".into()];
    let mirror = Mirror::start(Shelf::refusing(Refusal::Unauthorized { challenges })).await;
    let reply = mirror.get("/v2/app/manifests/latest").await;
    let relayed: Vec<_> = reply.headers.get_all("www-authenticate").iter().collect();
    assert_eq!(relayed, [bearer, "Basic realm=\"x\""]);
}

#[tokio::test]
async fn a_401_always_has_a_challenge() {
    let mirror = Mirror::start(Shelf::refusing(Refusal::Unauthorized { challenges: vec![] })).await;
    assert!(mirror.get("/v2/app/manifests/latest").await.header("www-authenticate").starts_with("Basic"));
}

#[tokio::test]
async fn throttling_says_how_long() {
    for (wait, header) in [(Some(Duration::from_millis(1500)), "2"), (Some(Duration::ZERO), "1"), (None, "5")]
    {
        let mirror = Mirror::start(Shelf::refusing(Refusal::Throttled { retry_after: wait })).await;
        assert_eq!(mirror.get("/v2/app/manifests/latest").await.header("retry-after"), header);
    }
}

#[tokio::test]
async fn names_that_are_none() {
    let mirror = Mirror::start(Shelf::default()).await;
    let blob = digest_of(1);
    for (path, status, code) in [
        ("/v2/app/blobs/sha256:00".to_string(), 400, "DIGEST_INVALID"),
        ("/v2/app/blobs/md5:00".into(), 400, "DIGEST_INVALID"),
        ("/v2/app/blobs/latest".into(), 400, "DIGEST_INVALID"),
        ("/v2/app/manifests/sha256:xyz".into(), 400, "DIGEST_INVALID"),
        ("/v2/app/referrers/sha256:00".into(), 400, "DIGEST_INVALID"),
        ("/v2/app/manifests/.bad".into(), 404, "MANIFEST_UNKNOWN"),
        ("/v2/app/manifests/".into(), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/App/blobs/{blob}"), 400, "NAME_INVALID"),
        (format!("/v2/a//b/blobs/{blob}"), 400, "NAME_INVALID"),
        (format!("/v2//blobs/{blob}"), 400, "NAME_INVALID"),
        (format!("/v2/app/blobs/{blob}?ns="), 400, "NAME_INVALID"),
        (format!("/v2/app/blobs/{blob}?ns=http://x"), 400, "NAME_INVALID"),
        (format!("/v2/app/blobs/{blob}?ns=other.test"), 403, "DENIED"),
        ("/v2/_catalog".into(), 404, "UNSUPPORTED"),
        ("/v2/app/tags/other".into(), 404, "UNSUPPORTED"),
        ("/v1/search".into(), 404, "UNSUPPORTED"),
        ("/v2x/app/tags/list".into(), 404, "UNSUPPORTED"),
        ("/".into(), 404, "UNSUPPORTED"),
    ] {
        let reply = mirror.get(&path).await;
        assert_eq!((reply.status.as_u16(), reply.error().0.as_str()), (status, code), "{path}");
    }
    assert!(mirror.shelf.asked.lock().unwrap().is_empty(), "none of these may reach the backend");
}

#[tokio::test]
async fn nothing_is_written() {
    let mirror = Mirror::start(Shelf::default()).await;
    for (method, path) in [
        ("POST", "/v2/app/blobs/uploads/"),
        ("PATCH", "/v2/app/blobs/uploads/0b5e"),
        ("PUT", "/v2/app/blobs/uploads/0b5e?digest=sha256:00"),
        ("PUT", "/v2/app/manifests/latest"),
        ("DELETE", "/v2/app/manifests/latest"),
        ("OPTIONS", "/v2/"),
    ] {
        let reply = mirror.ask(method, path, &[]).await;
        assert_eq!((reply.status.as_u16(), reply.header("allow")), (405, "GET, HEAD"), "{method}");
        assert_eq!(reply.error().0, "UNSUPPORTED");
    }
    assert!(mirror.shelf.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn two_identities_are_refused() {
    let mirror = Mirror::start(Shelf::default()).await;
    let both = [("authorization", "Bearer a"), ("authorization", "Bearer b")];
    let reply = mirror.ask("GET", "/v2/app/manifests/latest", &both).await;
    assert_eq!(reply.status, 400);
    assert!(!reply.error().1.contains("Bearer"));
}
