//! Every usual registry's way to authenticate works, and the credentials that it takes go nowhere else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::{Failure, Refusal};

const NODE: &str = "credentials = { username = 'robot$ci', password = 'horse' }";

fn basic(text: &str) -> String {
    format!("Basic {}", STANDARD.encode(text))
}

/// A registry that wants what its `challenge` says (`HOST` stands for its own address) and whose token
/// server gives `answer` to those who send `login`.
async fn registry(
    challenge: &'static str,
    login: String,
    token_body: &'static str,
    proof: String,
) -> FakeRegistry {
    FakeRegistry::start(move |seen| {
        if seen.path.contains("/v2/") && seen.path.contains("/blobs/") {
            if seen.header("authorization") == proof {
                return answer(200, &[("content-length", "5")], "12345");
            }
            let challenge = challenge.replace("HOST", seen.header("host"));
            return answer(401, &[("www-authenticate", &challenge)], "");
        }
        if seen.header("authorization") == login {
            answer(200, &[], token_body)
        } else {
            answer(401, &[("www-authenticate", "Basic realm=token")], "")
        }
    })
    .await
}

async fn size(origin: &Origin, who: &Identity) -> Result<u64, Failure> {
    let found = origin.head_blob(&repository(), &digest_of(b"12345"), who).await;
    found.map_err(|error| error.failure().clone())
}

/// The one request for a token.
fn token_request(registry: &FakeRegistry) -> Seen {
    let all: Vec<Seen> = registry.seen().into_iter().filter(|seen| !seen.path.contains("/blobs/")).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

#[tokio::test]
async fn token_servers_of_usual_registries() {
    for (challenge, body, path, service) in [
        // Harbor.
        (
            r#"Bearer realm="http://HOST/service/token",service="harbor-registry",scope="repository:team/app:pull""#,
            r#"{"token":"t","expires_in":1800,"issued_at":"2020-01-01T00:00:00Z"}"#,
            "/service/token",
            "service=harbor-registry",
        ),
        // Quay tells no lifetime.
        (
            r#"Bearer realm="http://HOST/v2/auth",service="quay.io",scope="repository:team/app:pull""#,
            r#"{"token":"t"}"#,
            "/v2/auth",
            "service=quay.io",
        ),
        // GitLab challenges for more than is asked for.
        (
            r#"Bearer realm="http://HOST/jwt/auth",service="container_registry",scope="repository:team/app:pull,push""#,
            r#"{"token":"t"}"#,
            "/jwt/auth",
            "service=container_registry",
        ),
        // Artifactory.
        (
            r#"Bearer realm="http://HOST/artifactory/api/docker/team/v2/token",service="HOST""#,
            r#"{"token":"t","expires_in":3600}"#,
            "/artifactory/api/docker/team/v2/token",
            "service=127.0.0.1%3A",
        ),
        // Distribution with a token server that names no service.
        (r#"Bearer realm="http://HOST/auth""#, r#"{"access_token":"t"}"#, "/auth", "scope="),
    ] {
        let registry = registry(challenge, basic("robot$ci:horse"), body, "Bearer t".to_owned()).await;
        assert_eq!(size(&registry.origin(NODE), &Identity::Node).await, Ok(5), "{challenge}");
        let request = token_request(&registry);
        assert_eq!(request.path, path);
        assert!(request.query.starts_with(service), "{}", request.query);
        assert!(request.query.ends_with("scope=repository%3Ateam%2Fapp%3Apull"), "{}", request.query);
    }
}

#[tokio::test]
async fn docker_hub_gives_a_token_to_nobody_in_particular() {
    let challenge = r#"Bearer realm="http://HOST/token",service="registry.docker.io",scope="repository:library/app:pull""#;
    let body = r#"{"token":"t","access_token":"t","expires_in":300}"#;
    let registry = registry(challenge, String::new(), body, "Bearer t".to_owned()).await;
    let origin = registry.origin_named("docker.io", "");
    let digest = digest_of(b"12345");
    assert_eq!(origin.head_blob(&"app".parse().unwrap(), &digest, &Identity::Anonymous).await.unwrap(), 5);
    assert_eq!(registry.seen()[0].path, format!("/v2/library/app/blobs/{digest}"));
    assert!(token_request(&registry).query.ends_with("scope=repository%3Alibrary%2Fapp%3Apull"));
}

#[tokio::test]
async fn basic_as_ecr_and_htpasswd_have_it() {
    let login = basic("AWS:token");
    let registry =
        registry("Basic realm=\"ecr\",service=\"ecr.amazonaws.com\"", String::new(), "", login).await;
    let origin = registry.origin("credentials = { username = 'AWS', password = 'token' }");
    assert_eq!(size(&origin, &Identity::Node).await, Ok(5));
    assert_eq!(size(&origin, &Identity::Node).await, Ok(5));
    // Only the first request had to be refused.
    assert_eq!(registry.seen().len(), 3);
}

#[tokio::test]
async fn identity_tokens_are_exchanged_with_a_form_as_acr_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.json");
    std::fs::write(&file, r#"{"auths":{"registry.test":{"identitytoken":"refresh me"}}}"#).unwrap();
    let challenge = r#"Bearer realm="http://HOST/oauth2/token",service="myregistry.azurecr.io""#;
    let registry = registry(challenge, String::new(), r#"{"access_token":"t"}"#, "Bearer t".to_owned()).await;
    let origin = registry.origin(&format!("docker_config = '{}'", file.display()));
    assert_eq!(size(&origin, &Identity::Node).await, Ok(5));
    let request = token_request(&registry);
    assert_eq!(request.method, Method::POST);
    for field in ["grant_type=refresh_token", "refresh_token=refresh+me", "service=myregistry.azurecr.io"] {
        assert!(request.body.contains(field), "{}", request.body);
    }
}

#[tokio::test]
async fn token_servers_that_know_only_the_form_get_it() {
    let registry = FakeRegistry::start(|seen| match (seen.path.as_str(), seen.method.as_str()) {
        ("/token", "POST") if seen.body.contains("username=robot%24ci&password=horse") => {
            answer(200, &[], r#"{"access_token":"t"}"#)
        }
        ("/token", _) => answer(405, &[], ""),
        _ if seen.header("authorization") == "Bearer t" => answer(200, &[], "12345"),
        _ => {
            let challenge = format!("Bearer realm=\"http://{}/token\"", seen.header("host"));
            answer(401, &[("www-authenticate", &challenge)], "")
        }
    })
    .await;
    assert_eq!(size(&registry.origin(NODE), &Identity::Node).await, Ok(5));
}

#[tokio::test]
async fn a_caller_uses_its_own_credentials() {
    let challenge = r#"Bearer realm="http://HOST/token""#;
    let login = basic("alice:secret");
    let registry = registry(challenge, login.clone(), r#"{"token":"t"}"#, "Bearer t".to_owned()).await;
    let origin = registry.origin(NODE);
    // The node's own are no use here, and the caller's work.
    assert!(matches!(size(&origin, &Identity::Node).await, Err(Failure::Unauthorized { .. })));
    assert_eq!(size(&origin, &caller(&login)).await, Ok(5));
    // What one caller may is nothing that another may.
    let other = size(&origin, &caller(&basic("bob:guess"))).await;
    assert!(matches!(other, Err(Failure::Unauthorized { challenge: Some(text) }) if text.contains("/token")));
}

#[tokio::test]
async fn a_callers_token_is_sent_as_it_is_and_never_replaced() {
    let challenge = r#"Bearer realm="http://HOST/token""#;
    let registry = registry(challenge, String::new(), r#"{"token":"t"}"#, "Bearer mine".to_owned()).await;
    let origin = registry.origin(NODE);
    assert_eq!(size(&origin, &caller("Bearer mine")).await, Ok(5));
    let refused = size(&origin, &caller("Bearer stale")).await;
    assert!(
        matches!(refused, Err(Failure::Unauthorized { challenge: Some(text) }) if text.contains("/token"))
    );
    assert!(registry.seen().iter().all(|seen| seen.path != "/token"));
}

#[tokio::test]
async fn anonymous_only_sends_nobodys_credentials() {
    let registry = registry("Basic realm=x", String::new(), "", basic("robot$ci:horse")).await;
    let origin = registry.origin(&format!("{NODE}\nanonymous_only = true"));
    for who in [Identity::Node, caller("Bearer mine"), caller(&basic("robot$ci:horse"))] {
        assert!(matches!(size(&origin, &who).await, Err(Failure::Unauthorized { .. })));
    }
    assert!(registry.seen().iter().all(|seen| seen.header("authorization").is_empty()));
}

#[tokio::test]
async fn a_hostile_realm_gets_no_credentials() {
    let thief = FakeRegistry::start(|_| answer(200, &[], r#"{"token":"t"}"#)).await;
    let realm = format!("http://localhost:{}/token", thief.addr.port());
    let challenge = format!("Bearer realm=\"{realm}\"");
    let registry = FakeRegistry::start(move |_| answer(401, &[("www-authenticate", &challenge)], "")).await;
    // Its address alone would be allowed, so that it is the rule about realms that holds.
    let config = format!("{NODE}\nprivate_hosts = ['localhost']");
    for who in [Identity::Node, caller(&basic("alice:secret"))] {
        let refused = size(&registry.origin(&config), &who).await;
        assert_eq!(refused, Err(Failure::Refused(Refusal::Realm("localhost".to_owned()))));
    }
    assert!(thief.seen().is_empty());
    // Named in the configuration it gets them.
    let config = format!("{NODE}\nrealms = ['{realm}']");
    size(&registry.origin(&config), &Identity::Node).await.unwrap_err();
    assert_eq!(thief.seen()[0].header("authorization"), basic("robot$ci:horse"));
}
