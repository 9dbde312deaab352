//! A manifest is the one that was asked for, and not larger than allowed.

use super::*;
use crate::{Failure, ManifestBody};

const BODY: &[u8] = br#"{"schemaVersion":2}"#;

async fn registry(body: &'static [u8], told: Option<String>) -> FakeRegistry {
    FakeRegistry::start(move |_| {
        let mut headers = vec![("content-type", "application/vnd.oci.image.manifest.v1+json; charset=utf-8")];
        headers.extend(told.as_deref().map(|digest| ("docker-content-digest", digest)));
        answer(200, &headers, body)
    })
    .await
}

async fn get(registry: &FakeRegistry, reference: &str) -> Result<ManifestBody, Failure> {
    let accept = [HeaderValue::from_static("application/a"), HeaderValue::from_static("application/b, */*")];
    let reference = reference.parse().unwrap();
    let found =
        registry.origin("").get_manifest(&repository(), &reference, &accept, 100, &Identity::Anonymous).await;
    found.map_err(|error| error.failure().clone())
}

#[tokio::test]
async fn both_algorithms_are_checked() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let digest = hash(algorithm, BODY);
        let body = get(&registry(BODY, None).await, &digest.to_string()).await.unwrap();
        assert_eq!((body.digest, &body.bytes[..]), (digest, BODY));
        let wrong = get(&registry(b"{}", None).await, &digest.to_string()).await;
        assert_eq!(wrong, Err(Failure::wrong_digest(digest, hash(algorithm, b"{}"))));
    }
}

#[tokio::test]
async fn a_tag_has_the_digest_of_its_bytes() {
    let server = registry(BODY, None).await;
    let body = get(&server, "latest").await.unwrap();
    assert_eq!(body.digest, digest_of(BODY));
    assert_eq!(body.media_type.as_deref(), Some("application/vnd.oci.image.manifest.v1+json"));
    let accept: Vec<_> = server.seen()[0].headers.get_all("accept").iter().cloned().collect();
    assert_eq!(accept, ["application/a", "application/b, */*"]);
    assert_eq!(server.seen()[0].header("accept-encoding"), "identity");
    let other = registry(BODY, Some(digest_of(b"other").to_string())).await;
    assert!(matches!(get(&other, "latest").await, Err(Failure::WrongDigest { .. })));
    let wide = registry(BODY, Some(hash(Algorithm::Sha512, BODY).to_string())).await;
    assert_eq!(get(&wide, "latest").await.unwrap().digest, hash(Algorithm::Sha512, BODY));
}

#[tokio::test]
async fn a_large_one_is_refused_with_and_without_a_length() {
    static LARGE: [u8; 101] = [b' '; 101];
    let limit = Failure::TooLarge { limit: 100 };
    assert_eq!(get(&registry(&LARGE, None).await, "latest").await, Err(limit.clone()));
    let chunked = FakeRegistry::start(|_| {
        let pieces = futures_util::stream::iter([Ok::<_, std::io::Error>(&LARGE[..60]), Ok(&LARGE[60..])]);
        answer(200, &[], Body::from_stream(pieces))
    })
    .await;
    assert_eq!(get(&chunked, "latest").await, Err(limit));
}

#[tokio::test]
async fn head_tells_digest_size_and_type() {
    let digest = digest_of(BODY);
    let server = registry(BODY, Some(digest.to_string())).await;
    let origin = server.origin("");
    let head = |reference: String| {
        let origin = origin.clone();
        async move {
            let reference = reference.parse().unwrap();
            origin.head_manifest(&repository(), &reference, &[], &Identity::Anonymous).await
        }
    };
    let found = head("latest".to_owned()).await.unwrap();
    assert_eq!((found.digest, found.size), (Some(digest), Some(BODY.len() as u64)));
    assert_eq!(server.seen()[0].method, Method::HEAD);
    let other = head(digest_of(b"other").to_string()).await.unwrap_err();
    assert!(matches!(other.failure(), Failure::WrongDigest { .. }));
}
