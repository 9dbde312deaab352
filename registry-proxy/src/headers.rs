//! Headers that several answers share.

use http::header::{ETAG, HeaderName, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue};
use shoal_proto::{Digest, RegistryName};

use crate::Source;

pub(crate) const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(crate) const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
pub(crate) const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
pub(crate) const SHOAL_SOURCE: HeaderName = HeaderName::from_static("x-shoal-source");
pub(crate) const SHOAL_STALE: HeaderName = HeaderName::from_static("x-shoal-stale");

/// The strong entity tag of content: its digest.
pub(crate) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Sets a header whose value is known to be printable, and leaves it out if it is not.
pub(crate) fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// What names the content and says where it is from.
pub(crate) fn describe(headers: &mut HeaderMap, registry: &RegistryName, digest: &Digest, source: Source) {
    set(headers, NAMESPACE, registry.as_str());
    set(headers, CONTENT_DIGEST, &digest.to_string());
    set(headers, ETAG, &etag(digest));
    headers.insert(SHOAL_SOURCE, HeaderValue::from_static(source.as_str()));
}

/// Whether the client holds this content already (RFC 9110, 13.1.2).
pub(crate) fn client_has(headers: &HeaderMap, etag: &str) -> bool {
    let lines = headers.get_all(IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
    let mut tags = lines.flat_map(|line| line.split(',')).map(str::trim);
    tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}
