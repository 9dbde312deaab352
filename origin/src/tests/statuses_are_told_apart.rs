//! What a registry answers decides what a mirror may do: an outage is not a refusal.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::{Failure, OriginError, PassPath};

async fn head(registry: &FakeRegistry) -> OriginError {
    let reference = "latest".parse().unwrap();
    registry.origin("").head_manifest(&repository(), &reference, &[], &Identity::Anonymous).await.unwrap_err()
}

#[tokio::test]
async fn refusals_are_not_outages() {
    for (status, want) in [
        (401, Failure::Unauthorized { challenge: None }),
        (403, Failure::Forbidden),
        (404, Failure::NotFound),
        (418, Failure::Status { status: 418 }),
    ] {
        let registry = FakeRegistry::start(move |_| answer(status, &[], "")).await;
        let error = head(&registry).await;
        assert_eq!((error.failure(), error.is_outage()), (&want, false));
        assert_eq!(registry.seen().len(), 1, "{status} is final");
        assert_eq!(error.subject(), "HEAD manifest registry.test team/app latest");
    }
}

#[tokio::test]
async fn a_limit_of_requests_is_an_outage_and_not_asked_again() {
    let registry = FakeRegistry::start(|_| answer(429, &[("retry-after", "17")], "")).await;
    let error = head(&registry).await;
    assert_eq!(*error.failure(), Failure::Throttled { retry_after: Some(Duration::from_secs(17)) });
    assert!(error.is_outage());
    assert_eq!(registry.seen().len(), 1);
}

#[tokio::test]
async fn a_failing_registry_is_asked_again_a_few_times() {
    let registry = FakeRegistry::start(|_| answer(500, &[], "")).await;
    let error = head(&registry).await;
    assert_eq!(*error.failure(), Failure::Server { status: 500 });
    assert!(error.is_outage());
    assert_eq!(registry.seen().len(), 3);
}

#[tokio::test]
async fn a_failure_that_passes_is_not_seen() {
    let count = AtomicUsize::new(0);
    let count = Arc::new(count);
    let registry = FakeRegistry::start(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => answer(503, &[], ""),
        _ => answer(200, &[("content-length", "7")], ""),
    })
    .await;
    let reference = "latest".parse().unwrap();
    let origin = registry.origin("");
    let head = origin.head_manifest(&repository(), &reference, &[], &Identity::Anonymous).await.unwrap();
    assert_eq!((head.digest, head.size), (None, Some(7)));
    assert_eq!(origin.counters().requests, 2);
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_an_outage() {
    let registry = FakeRegistry::start(|_| answer(200, &[], "")).await;
    registry.server.abort();
    while !registry.server.is_finished() {
        tokio::task::yield_now().await;
    }
    let error = head(&registry).await;
    assert!(matches!(error.failure(), Failure::Unreachable { .. }) && error.is_outage(), "{error}");
}

#[tokio::test]
async fn lists_are_passed_on_without_ns() {
    let registry = FakeRegistry::start(|_| {
        let headers = [("link", "</v2/team/app/tags/list?last=b>; rel=\"next\""), ("set-cookie", "a=b")];
        answer(200, &headers, "{\"tags\":[]}")
    })
    .await;
    let origin = registry.origin("");
    let query = "n=2&ns=docker.io&last=a";
    let passed = origin.pass(&repository(), &PassPath::Tags, query, &Identity::Anonymous).await.unwrap();
    assert_eq!(&passed.body[..], b"{\"tags\":[]}");
    assert!(passed.headers.contains_key("link") && !passed.headers.contains_key("set-cookie"));
    let digest = digest_of(b"x");
    origin.pass(&repository(), &PassPath::Referrers(digest), "ns=a", &Identity::Anonymous).await.unwrap();
    let asked: Vec<_> = registry.seen().into_iter().map(|seen| (seen.path, seen.query)).collect();
    assert_eq!(asked[0], ("/v2/team/app/tags/list".to_owned(), "n=2&last=a".to_owned()));
    assert_eq!(asked[1], (format!("/v2/team/app/referrers/{digest}"), String::new()));
}
