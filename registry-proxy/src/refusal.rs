//! Why a request gets no content, as HTTP status and OCI error: the only place where one becomes the other.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;
use shoal_proto::RegistryName;

use crate::ReadFailure;
use crate::body::ReplyBody;

/// Why the backend does not answer. Reasons are told to the client and logged: no secrets in them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the registry has no such manifest; check the tag or digest")]
    ManifestUnknown,
    #[error("the repository holds no such blob")]
    BlobUnknown,
    #[error("the registry has no such repository; check the image's name")]
    NameUnknown,
    /// The upstream wants (other) credentials; its challenges, as they came.
    #[error(
        "the registry did not accept the credentials shown (or none were shown); podman, buildah, skopeo: log in to \
         this mirror's address"
    )]
    Unauthorized { challenges: Vec<String> },
    #[error("access denied: {reason}")]
    Denied { reason: String },
    #[error(
        "this mirror does not serve {registry}; to allow it add the table [mirror.registries.\"{registry}\"] to the \
         node's configuration"
    )]
    NotAllowed { registry: RegistryName },
    #[error("too many requests; wait and pull again")]
    Throttled { retry_after: Option<Duration> },
    /// The upstream answered, with something that cannot be used.
    #[error("the registry's answer cannot be used: {reason}")]
    UpstreamFailed { reason: String },
    /// Neither the cluster nor the upstream has it now.
    #[error("not available now: {reason}")]
    Unavailable { reason: String },
    /// The manifest is not one: wrong digest, too long, not JSON.
    #[error("the manifest is not valid: {reason}")]
    ManifestInvalid { reason: String },
}

/// Why a request is refused before the backend is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("no such page; the API of this mirror begins at /v2/")]
    RouteUnknown,
    #[error("this mirror only pulls: push to the registry itself, and delete there")]
    ReadOnly,
    #[error("{0}")]
    NameInvalid(String),
    #[error("{0}")]
    DigestInvalid(String),
    /// As a registry does: a tag that cannot be is a manifest that is not there.
    #[error("{0}")]
    TagInvalid(String),
    #[error("the address is longer than {0} bytes")]
    UriTooLong(usize),
    #[error("the Authorization header must occur once and be text")]
    AuthorizationUnclear,
    #[error("the range starts past the end of the blob, which has {size} bytes")]
    RangePastEnd { size: u64 },
    #[error("this node serves as many requests as it can; wait and try again")]
    Busy,
}

/// Either of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Backend(#[from] Refusal),
}

impl From<ReadFailure> for Refusal {
    fn from(failure: ReadFailure) -> Self {
        let reason = failure.to_string();
        match failure {
            ReadFailure::Corrupt(_) => Self::UpstreamFailed { reason },
            ReadFailure::Unavailable(_) | ReadFailure::Stopping => Self::Unavailable { reason },
        }
    }
}

// Long enough not to burden a node or registry that is in trouble, short beside a client's patience.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(5);

impl Failure {
    /// Status and error code (OCI distribution specification, "Error Codes"; TAG_INVALID, RANGE_INVALID,
    /// UNAVAILABLE and UNKNOWN are those of the reference implementation).
    pub(crate) fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Backend(refusal) => match refusal {
                Refusal::ManifestUnknown => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
                Refusal::BlobUnknown => (StatusCode::NOT_FOUND, "BLOB_UNKNOWN"),
                Refusal::NameUnknown => (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
                Refusal::Unauthorized { .. } => (StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
                Refusal::Denied { .. } | Refusal::NotAllowed { .. } => (StatusCode::FORBIDDEN, "DENIED"),
                Refusal::Throttled { .. } => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
                Refusal::UpstreamFailed { .. } => (StatusCode::BAD_GATEWAY, "UNKNOWN"),
                Refusal::Unavailable { .. } => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
                Refusal::ManifestInvalid { .. } => (StatusCode::BAD_GATEWAY, "MANIFEST_INVALID"),
            },
            Self::Request(error) => match error {
                RequestError::RouteUnknown => (StatusCode::NOT_FOUND, "UNSUPPORTED"),
                RequestError::ReadOnly => (StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED"),
                RequestError::NameInvalid(_) => (StatusCode::BAD_REQUEST, "NAME_INVALID"),
                RequestError::DigestInvalid(_) => (StatusCode::BAD_REQUEST, "DIGEST_INVALID"),
                RequestError::TagInvalid(_) => (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN"),
                RequestError::UriTooLong(_) => (StatusCode::URI_TOO_LONG, "NAME_INVALID"),
                RequestError::AuthorizationUnclear => (StatusCode::BAD_REQUEST, "UNAUTHORIZED"),
                RequestError::RangePastEnd { .. } => (StatusCode::RANGE_NOT_SATISFIABLE, "RANGE_INVALID"),
                RequestError::Busy => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
            },
        }
    }

    /// The whole response. `subject` says what was asked for, as a user would write it.
    pub(crate) fn response(&self, subject: &str, head: bool) -> Response<ReplyBody> {
        let (status, code) = self.status_and_code();
        let message = if subject.is_empty() { self.to_string() } else { format!("{subject}: {self}") };
        let error = json!({ "code": code, "message": message, "detail": { "subject": subject } });
        let body = Bytes::from(json!({ "errors": [error] }).to_string());
        let length = HeaderValue::from(body.len());

        let mut response = Response::new(if head { ReplyBody::empty() } else { ReplyBody::full(body) });
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().insert(CONTENT_LENGTH, length);
        self.add_headers(&mut response);
        response
    }

    fn add_headers(&self, response: &mut Response<ReplyBody>) {
        let headers = response.headers_mut();
        match self {
            Self::Request(RequestError::ReadOnly) => {
                headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            Self::Request(RequestError::RangePastEnd { size }) => {
                if let Ok(value) = HeaderValue::try_from(format!("bytes */{size}")) {
                    headers.insert(CONTENT_RANGE, value);
                }
            }
            Self::Request(RequestError::Busy) | Self::Backend(Refusal::Unavailable { .. }) => {
                headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_DEFAULT.as_secs()));
            }
            Self::Backend(Refusal::Throttled { retry_after }) => {
                // Rounded up: a client that comes back early is throttled again.
                let wait = retry_after.unwrap_or(RETRY_AFTER_DEFAULT).as_millis().div_ceil(1000).max(1);
                headers.insert(RETRY_AFTER, HeaderValue::from(u64::try_from(wait).unwrap_or(u64::MAX)));
            }
            Self::Backend(Refusal::Unauthorized { challenges }) => {
                challenges.iter().filter_map(|text| HeaderValue::from_str(text).ok()).for_each(|value| {
                    headers.append(WWW_AUTHENTICATE, value);
                });
                // A 401 without a challenge is not HTTP (RFC 9110, 15.5.2), and some clients hang on it.
                if !headers.contains_key(WWW_AUTHENTICATE) {
                    headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"registry\""));
                }
            }
            Self::Request(_) | Self::Backend(_) => {}
        }
    }
}
