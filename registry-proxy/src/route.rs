//! The paths of the API, parsed once.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use shoal_proto::{Digest, Reference, RegistryName};

use crate::RouteLabel;
use crate::refusal::RequestError;

// Four times what the longest host, repository and digest need, percent-encoded.
pub(crate) const MAX_URI: usize = 8 * 1024;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/v2/`
    Ping,
    /// `/v2/<name>/…`
    Named(Named),
}

/// A request for something in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    /// The path's `<name>`, not empty and not parsed: it may begin with a registry.
    pub(crate) name: String,
    /// The registry that the parameter `ns` names.
    pub(crate) ns: Option<RegistryName>,
    pub(crate) what: What,
    /// The other parameters, encoded anew.
    pub(crate) query: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Manifest(Reference),
    Blob(Digest),
    Tags,
    Referrers(Digest),
}

impl Route {
    /// Parses path and query as they stand in the request. Percent-encoding is undone exactly once, so that
    /// what hides in a second layer fails the grammar of names.
    pub(crate) fn parse(path: &str, query: &str) -> Result<Self, RequestError> {
        if path.len() + query.len() > MAX_URI {
            return Err(RequestError::UriTooLong(MAX_URI));
        }
        let path = decode(path)?;
        let rest = path.strip_prefix("/v2").ok_or(RequestError::RouteUnknown)?;
        if matches!(rest, "" | "/") {
            return Ok(Self::Ping);
        }
        let rest = rest.strip_prefix('/').ok_or(RequestError::RouteUnknown)?;
        // From the right: a repository may itself be called `a/manifests/b`.
        let (head, last) = rest.rsplit_once('/').ok_or(RequestError::RouteUnknown)?;
        let (name, kind) = head.rsplit_once('/').ok_or(RequestError::RouteUnknown)?;
        let what = match kind {
            "manifests" => What::Manifest(parse_reference(last)?),
            "blobs" => What::Blob(parse_digest(last)?),
            "referrers" => What::Referrers(parse_digest(last)?),
            "tags" if last == "list" => What::Tags,
            _ => return Err(RequestError::RouteUnknown),
        };
        if name.is_empty() {
            return Err(RequestError::NameInvalid("the repository's name is missing".into()));
        }
        let (ns, query) = parse_query(query)?;
        Ok(Self::Named(Named { name: name.into(), ns, what, query }))
    }

    pub(crate) fn label(&self) -> RouteLabel {
        match self {
            Self::Ping => RouteLabel::Ping,
            Self::Named(named) => match named.what {
                What::Manifest(_) => RouteLabel::Manifest,
                What::Blob(_) => RouteLabel::Blob,
                What::Tags => RouteLabel::Tags,
                What::Referrers(_) => RouteLabel::Referrers,
            },
        }
    }
}

fn decode(text: &str) -> Result<Cow<'_, str>, RequestError> {
    let malformed = |what: &str| RequestError::NameInvalid(format!("the address {what}"));
    let is_hex = |digit: Option<&u8>| digit.is_some_and(u8::is_ascii_hexdigit);
    let escapes = text.split('%').skip(1).map(str::as_bytes);
    // The decoder would let these through as they are.
    if escapes.into_iter().any(|escape| !is_hex(escape.first()) || !is_hex(escape.get(1))) {
        return Err(malformed("has a % that two hexadecimal digits do not follow"));
    }
    percent_decode_str(text).decode_utf8().map_err(|_| malformed("is not UTF-8"))
}

fn parse_reference(text: &str) -> Result<Reference, RequestError> {
    text.parse().map_err(|error: shoal_proto::ReferenceError| {
        if text.contains(':') {
            RequestError::DigestInvalid(error.to_string())
        } else {
            RequestError::TagInvalid(error.to_string())
        }
    })
}

fn parse_digest(text: &str) -> Result<Digest, RequestError> {
    text.parse().map_err(|error: shoal_proto::DigestError| RequestError::DigestInvalid(error.to_string()))
}

/// Takes `ns` out of the query: an upstream must not see it (Docker Hub answers 400 to it).
fn parse_query(query: &str) -> Result<(Option<RegistryName>, String), RequestError> {
    let mut ns = None;
    let mut rest = form_urlencoded::Serializer::new(String::new());
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        if key != "ns" {
            rest.append_pair(&key, &value);
            continue;
        }
        let name: RegistryName = value
            .parse()
            .map_err(|error: shoal_proto::RegistryNameError| RequestError::NameInvalid(error.to_string()))?;
        // Two readers of one request must not see two registries.
        if ns.replace(name).is_some() {
            return Err(RequestError::NameInvalid("the parameter ns must occur once".into()));
        }
    }
    Ok((ns, rest.finish()))
}
