//! Neither a client nor a registry can make a node ask what only the node can reach.

use super::*;
use crate::{Failure, Refusal};

async fn size(origin: &Origin) -> Result<u64, Failure> {
    let found = origin.head_blob(&repository(), &digest_of(b"x"), &Identity::Anonymous).await;
    found.map_err(|error| error.failure().clone())
}

#[tokio::test]
async fn redirects_and_realms_to_the_loopback_are_refused() {
    let inside = FakeRegistry::start(|_| answer(200, &[("content-length", "5")], r#"{"token":"t"}"#)).await;
    let port = inside.addr.port();
    // By name, which is refused once it is resolved, and by address.
    for host in ["localhost", "127.0.0.2", "[::ffff:127.0.0.1]", "2130706434"] {
        let target = format!("http://{host}:{port}/");
        let registry = FakeRegistry::start(move |_| answer(307, &[("location", &target)], "")).await;
        let refused = size(&registry.origin("")).await;
        assert!(matches!(refused, Err(Failure::Refused(Refusal::Address(_)))), "{host}: {refused:?}");
        let challenge = format!("Bearer realm=\"http://{host}:{port}/token\"");
        let registry =
            FakeRegistry::start(move |_| answer(401, &[("www-authenticate", &challenge)], "")).await;
        let refused = size(&registry.origin("")).await;
        assert!(matches!(refused, Err(Failure::Refused(Refusal::Address(_)))), "{host}: {refused:?}");
    }
    assert!(inside.seen().is_empty());
}

#[tokio::test]
async fn a_private_host_that_the_operator_named_is_followed_to() {
    let storage = FakeRegistry::start(|_| answer(200, &[("content-length", "5")], "")).await;
    let target = format!("http://localhost:{}/", storage.addr.port());
    let registry = FakeRegistry::start(move |_| answer(307, &[("location", &target)], "")).await;
    assert_eq!(size(&registry.origin("private_hosts = ['localhost']")).await, Ok(5));
}

#[tokio::test]
async fn a_name_from_a_client_leads_to_no_private_address() {
    let inside = FakeRegistry::start(|_| answer(200, &[("content-length", "5")], "")).await;
    let config = "system_proxy = false\nallow = ['*']";
    let origins = Origins::new(toml::from_str(config).unwrap()).unwrap();
    let port = inside.addr.port();
    for name in [
        format!("127.0.0.1:{port}"),
        "169.254.169.254".to_owned(),
        "[::1]:80".to_owned(),
        "0x7f.1".to_owned(),
    ] {
        let error = origins.admit(&name.parse().unwrap()).unwrap_err();
        assert!(matches!(error.failure(), Failure::Refused(Refusal::Address(_))), "{error}");
    }
    let origin = origins.admit(&format!("localhost:{port}").parse().unwrap()).unwrap();
    assert_eq!(size(&origin).await, Err(Failure::Refused(Refusal::Address("localhost".to_owned()))));
    assert!(inside.seen().is_empty());
}
