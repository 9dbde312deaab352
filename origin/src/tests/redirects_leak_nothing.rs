//! Redirects are followed to storage, without the credentials, and not without end.

use super::*;
use crate::{Failure, Refusal};

const NODE: &str = "credentials = { username = 'u', password = 'p' }";

/// A registry that wants Basic and then redirects blobs to `target`.
async fn redirecting(status: u16, target: String) -> FakeRegistry {
    FakeRegistry::start(move |seen| match seen.header("authorization") {
        "Basic dTpw" => answer(status, &[("location", &target)], ""),
        _ => answer(401, &[("www-authenticate", "Basic realm=x")], ""),
    })
    .await
}

async fn size(origin: &Origin) -> Result<u64, Failure> {
    let found = origin.head_blob(&repository(), &digest_of(b"x"), &Identity::Node).await;
    found.map_err(|error| error.failure().clone())
}

#[tokio::test]
async fn storage_gets_the_request_without_authorization() {
    for status in [301, 302, 303, 307, 308] {
        let storage = FakeRegistry::start(|_| answer(200, &[("content-length", "5")], "12345")).await;
        let target = format!("http://{}/bucket/key?signature=abc", storage.addr);
        let registry = redirecting(status, target).await;
        assert_eq!(size(&registry.origin(NODE)).await, Ok(5), "{status}");
        let seen = &storage.seen()[0];
        assert_eq!((seen.path.as_str(), seen.query.as_str()), ("/bucket/key", "signature=abc"));
        assert_eq!((seen.method.clone(), seen.header("authorization")), (Method::HEAD, ""));
    }
}

#[tokio::test]
async fn a_way_back_to_the_registry_stays_without_authorization() {
    let back = Arc::new(Mutex::new(String::new()));
    let target = back.clone();
    let storage =
        FakeRegistry::start(move |_| answer(307, &[("location", &target.lock().unwrap().clone())], "")).await;
    let there = format!("http://{}/there", storage.addr);
    let registry =
        FakeRegistry::start(move |seen| match (seen.path.as_str(), seen.header("authorization")) {
            ("/back", _) => answer(200, &[("content-length", "5")], "12345"),
            (_, "Basic dTpw") => answer(307, &[("location", &there)], ""),
            _ => answer(401, &[("www-authenticate", "Basic realm=x")], ""),
        })
        .await;
    *back.lock().unwrap() = format!("http://{}/back", registry.addr);
    assert_eq!(size(&registry.origin(NODE)).await, Ok(5));
    let seen = registry.seen();
    let last = seen.last().unwrap();
    assert_eq!((last.path.as_str(), last.header("authorization")), ("/back", ""));
}

#[tokio::test]
async fn redirects_without_end_are_refused() {
    let registry = FakeRegistry::start(|_| answer(307, &[("location", "/again")], "")).await;
    assert_eq!(size(&registry.origin("")).await, Err(Failure::Refused(Refusal::Redirects)));
    assert_eq!(registry.seen().len(), 6);
}

#[tokio::test]
async fn storage_that_refuses_is_not_a_registry_that_challenges() {
    let storage = FakeRegistry::start(|_| answer(401, &[("www-authenticate", "Basic realm=x")], "")).await;
    let registry = redirecting(307, format!("http://{}/", storage.addr)).await;
    assert_eq!(size(&registry.origin(NODE)).await, Err(Failure::Forbidden));
    assert!(storage.seen().iter().all(|seen| seen.header("authorization").is_empty()));
}
