//! Which token realms may receive a registry's credentials.
//!
//! A registry names its token server itself, and a hostile one could name a server that collects
//! passwords (CVE-2026-33540). So credentials go only to the registry's own host, to its registrable
//! domain, or where the configuration says.

use url::{Host, Url};

use crate::error::Refusal;

/// The domain that was registered under a public suffix; `None` for addresses and for names under suffixes
/// that are not public (`.local`, `.internal`), where nothing tells who owns a level.
pub(crate) fn registrable_domain(host: &str) -> Option<&str> {
    let domain = psl::domain(host.as_bytes()).filter(|domain| domain.suffix().is_known())?;
    // An address has no domain, whatever its last number.
    let is_name = matches!(Host::parse(host), Ok(Host::Domain(_)));
    host.get(host.len() - domain.as_bytes().len()..).filter(|_| is_name)
}

/// Whether both URLs have the same scheme, host and port, so that credentials for one may go to the other.
pub(crate) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Checks that `realm` may get the credentials for `registry`.
pub(crate) fn check_realm(realm: &Url, registry: &Url, configured: &[Url]) -> Result<(), Refusal> {
    if configured.iter().any(|allowed| same_origin(allowed, realm)) {
        return Ok(());
    }
    let (Some(host), Some(own)) = (realm.host_str(), registry.host_str()) else {
        return Err(Refusal::Url(realm.scheme().to_owned()));
    };
    if realm.scheme() != "https" && registry.scheme() == "https" {
        return Err(Refusal::Downgrade(host.to_owned()));
    }
    let domain = registrable_domain(own);
    if host == own || (domain.is_some() && registrable_domain(host) == domain) {
        Ok(())
    } else {
        Err(Refusal::Realm(host.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(realm: &str, registry: &str) -> Result<(), Refusal> {
        let configured = [Url::parse("https://tokens.example.net:8443/").unwrap()];
        check_realm(&Url::parse(realm).unwrap(), &Url::parse(registry).unwrap(), &configured)
    }

    #[test]
    fn realms_of_the_same_owner_get_credentials() {
        for (realm, registry) in [
            ("https://auth.docker.io/token", "https://registry-1.docker.io/v2/"),
            ("https://harbor.internal/service/token", "https://harbor.internal/v2/"),
            ("https://gitlab.example.com/jwt/auth", "https://gitlab.example.com:5050/v2/"),
            ("https://10.0.0.1/token", "https://10.0.0.1:5000/v2/"),
            ("http://10.0.0.1/token", "http://10.0.0.1:5000/v2/"),
            ("https://tokens.example.net:8443/token", "https://registry.example.com/v2/"),
        ] {
            assert_eq!(check(realm, registry), Ok(()), "{realm}");
        }
    }

    #[test]
    fn other_realms_do_not() {
        for (realm, registry) in [
            ("https://evil.example/token", "https://registry.example.com/v2/"),
            ("https://evil.co.uk/token", "https://registry.co.uk/v2/"),
            ("https://evil.github.io/token", "https://registry.github.io/v2/"),
            ("https://docker.io.evil.example/token", "https://registry-1.docker.io/v2/"),
            ("https://xdocker.io/token", "https://docker.io/v2/"),
            ("https://evil.ns.svc.cluster.local/token", "https://registry.prod.svc.cluster.local/v2/"),
            ("https://10.0.0.2/token", "https://10.0.0.1/v2/"),
            ("https://tokens.example.net/token", "https://registry.example.com/v2/"),
            ("http://registry.example.com/token", "https://registry.example.com/v2/"),
        ] {
            assert!(check(realm, registry).is_err(), "{realm}");
        }
    }
}
