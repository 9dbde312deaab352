//! A token is fetched once for all who need it, renewed before it expires, and not asked for in a storm.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use super::*;
use crate::Failure;

/// A registry whose token server numbers its tokens and lets them live for `expires_in` seconds; `accepts`
/// tells which the registry takes.
async fn registry(expires_in: u32, accepts: fn(&str) -> bool) -> FakeRegistry {
    let tokens = Arc::new(AtomicUsize::new(0));
    FakeRegistry::start(move |seen| {
        if seen.path == "/token" {
            let n = tokens.fetch_add(1, Ordering::SeqCst) + 1;
            return answer(200, &[], format!(r#"{{"token":"t{n}","expires_in":{expires_in}}}"#));
        }
        if accepts(seen.header("authorization")) {
            return answer(200, &[], "12345");
        }
        let challenge = format!("Bearer realm=\"http://{}/token\"", seen.header("host"));
        answer(401, &[("www-authenticate", &challenge)], "")
    })
    .await
}

async fn size(origin: &Origin, name: &str) -> Result<u64, Failure> {
    let found = origin.head_blob(&name.parse().unwrap(), &digest_of(b"x"), &Identity::Anonymous).await;
    found.map_err(|error| error.failure().clone())
}

fn tokens(registry: &FakeRegistry) -> usize {
    registry.seen().iter().filter(|seen| seen.path == "/token").count()
}

fn refused(registry: &FakeRegistry) -> usize {
    registry
        .seen()
        .iter()
        .filter(|seen| seen.header("authorization").is_empty() && seen.path != "/token")
        .count()
}

/// Lets the clock jump, without waiting, and go on as usual.
async fn pass_seconds(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test]
async fn many_requests_at_once_fetch_one_token() {
    let registry = registry(300, |sent| sent.starts_with("Bearer t")).await;
    let origin = registry.origin("");
    let all = join_all((0..50).map(|_| size(&origin, "team/app"))).await;
    assert!(all.iter().all(|found| *found == Ok(5)));
    assert_eq!(tokens(&registry), 1);
}

#[tokio::test]
async fn a_repository_has_its_own_token() {
    let registry = registry(300, |sent| sent.starts_with("Bearer t")).await;
    let origin = registry.origin("");
    for name in ["a/a", "a/b", "a/a"] {
        assert_eq!(size(&origin, name).await, Ok(5));
    }
    assert_eq!(tokens(&registry), 2);
}

#[tokio::test]
async fn an_expiring_token_is_renewed_before_it_is_refused() {
    let registry = registry(100, |sent| sent.starts_with("Bearer t")).await;
    let origin = registry.origin("");
    for (pass, want) in [(0, 1), (70, 1), (10, 2)] {
        pass_seconds(pass).await;
        assert_eq!(size(&origin, "a/a").await, Ok(5));
        assert_eq!((tokens(&registry), refused(&registry)), (want, 1), "{pass}");
    }
}

#[tokio::test]
async fn a_token_that_the_registry_takes_no_more_is_replaced() {
    static REVOKED: AtomicBool = AtomicBool::new(false);
    let registry =
        registry(300, |sent| sent == if REVOKED.load(Ordering::SeqCst) { "Bearer t2" } else { "Bearer t1" });
    let registry = registry.await;
    let origin = registry.origin("");
    assert_eq!(size(&origin, "a/a").await, Ok(5));
    REVOKED.store(true, Ordering::SeqCst);
    pass_seconds(3).await;
    assert_eq!(size(&origin, "a/a").await, Ok(5));
    assert_eq!(tokens(&registry), 2);
}

#[tokio::test]
async fn a_fresh_token_that_is_refused_causes_no_storm() {
    let registry = registry(300, |_| false).await;
    let origin = registry.origin("");
    for _ in 0..10 {
        assert!(matches!(size(&origin, "a/a").await, Err(Failure::Unauthorized { challenge: Some(_) })));
    }
    assert_eq!(tokens(&registry), 1);
}

#[tokio::test]
async fn a_token_server_that_refuses_causes_no_storm() {
    let registry = FakeRegistry::start(|seen| {
        if seen.path == "/token" {
            return answer(403, &[], "");
        }
        let challenge = format!("Bearer realm=\"http://{}/token\"", seen.header("host"));
        answer(401, &[("www-authenticate", &challenge)], "")
    })
    .await;
    let origin = registry.origin("");
    let all = join_all((0..20).map(|_| size(&origin, "a/a"))).await;
    assert!(all.iter().all(|found| *found == Err(Failure::Forbidden)));
    assert_eq!(tokens(&registry), 1);
}

#[tokio::test]
async fn an_answer_that_is_no_token_is_an_error() {
    for body in ["", "[]", "{}", r#"{"token":""}"#, "{\"token\":\"a\\nb\"}"] {
        let registry = FakeRegistry::start(move |seen| {
            if seen.path == "/token" {
                return answer(200, &[], body);
            }
            let challenge = format!("Bearer realm=\"http://{}/token\"", seen.header("host"));
            answer(401, &[("www-authenticate", &challenge)], "")
        })
        .await;
        assert!(matches!(size(&registry.origin(""), "a/a").await, Err(Failure::Malformed(_))), "{body}");
    }
}
