//! Where a redirect may lead, and what it takes along.
//!
//! Redirects are followed by hand, because each hop must pass the rules about addresses, and because a
//! registry's credentials must not follow to a storage host.

use http::header::LOCATION;
use http::{HeaderMap, Method, StatusCode};
use url::Url;

use crate::address::AddressRules;
use crate::error::{Failure, Refusal};
use crate::realm::same_origin;

/// Redirects followed for one request. A registry needs one, to storage; a CDN may add one or two.
pub(crate) const MAX_REDIRECTS: usize = 5;

/// The next hop of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) url: Url,
    /// Whether this hop may get what the one before got as `Authorization`.
    pub(crate) keeps_authorization: bool,
}

/// The hop that an answer asks for; `None` when it is not a redirect.
pub(crate) fn next_hop(
    method: &Method,
    from: &Url,
    status: StatusCode,
    headers: &HeaderMap,
    rules: &AddressRules,
) -> Result<Option<Hop>, Failure> {
    let redirects = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
    if !redirects || !matches!(*method, Method::GET | Method::HEAD) {
        return Ok(None);
    }
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let url = location.and_then(|text| from.join(text).ok());
    let mut url = url.ok_or(Failure::Malformed("a redirect without a usable location"))?;
    url.set_fragment(None);
    rules.check(&url).map_err(Failure::Refused)?;
    let host = url.host_str().unwrap_or_default();
    if from.scheme() == "https" && url.scheme() != "https" && !rules.trusts(host) {
        return Err(Failure::Refused(Refusal::Downgrade(host.to_owned())));
    }
    Ok(Some(Hop { keeps_authorization: same_origin(from, &url), url }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(from: &str, location: &str) -> Result<Option<Hop>, Failure> {
        let headers = HeaderMap::from_iter([(LOCATION, location.parse().unwrap())]);
        let rules = AddressRules { trusted_hosts: vec!["minio.corp".to_owned()], ..AddressRules::default() };
        let from = Url::parse(from).unwrap();
        next_hop(&Method::GET, &from, StatusCode::TEMPORARY_REDIRECT, &headers, &rules)
    }

    #[test]
    fn authorization_stays_on_scheme_host_and_port() {
        for (location, keeps) in [
            ("/v2/other", true),
            ("https://r.example:443/x", true),
            ("https://r.example:444/x", false),
            ("https://cdn.example/x", false),
            ("//cdn.example/x", false),
            ("https://r.example.evil.example/x", false),
        ] {
            let hop = hop("https://r.example/v2/a", location).unwrap().unwrap();
            assert_eq!(hop.keeps_authorization, keeps, "{location}");
        }
    }

    #[test]
    fn redirects_into_the_node_or_out_of_tls_are_refused() {
        for location in [
            "http://r.example/x",
            "https://127.0.0.1/x",
            "https://[::1]/x",
            "ftp://a/",
            "https://u:p@r.example/",
        ] {
            assert!(matches!(hop("https://r.example/", location), Err(Failure::Refused(_))), "{location}");
        }
        assert!(hop("https://r.example/", "http://minio.corp:9000/x").unwrap().is_some());
    }

    #[test]
    fn other_answers_are_not_redirects() {
        let rules = AddressRules::default();
        let url = Url::parse("https://r.example/").unwrap();
        let none = next_hop(&Method::GET, &url, StatusCode::OK, &HeaderMap::new(), &rules);
        assert_eq!(none, Ok(None));
        let post = next_hop(&Method::POST, &url, StatusCode::FOUND, &HeaderMap::new(), &rules);
        assert_eq!(post, Ok(None));
        assert!(next_hop(&Method::GET, &url, StatusCode::FOUND, &HeaderMap::new(), &rules).is_err());
    }
}
