//! From a request to its response.

use std::fmt;
use std::sync::Arc;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Response};
use shoal_proto::{Digest, RegistryName};
use tracing::{Instrument, Span, field};

use crate::body::ReplyBody;
use crate::headers::API_VERSION;
use crate::metrics::{InFlight, Metrics};
use crate::refusal::{Failure, RequestError};
use crate::refusal_log::RefusalLog;
use crate::route::{Named, Route, What};
use crate::{
    Backend, BlobRef, Caller, ImageRef, Pass, PassKind, Refusal, RouteLabel, Source, blobs, manifests, pass,
    registry,
};

/// Answers requests of all connections.
pub(crate) struct Service<B> {
    pub(crate) backend: Arc<B>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) max_requests: usize,
    /// As [`crate::ProxyConfig::challenge`].
    pub(crate) challenge: bool,
    pub(crate) refused: RefusalLog,
}

/// A request for something in a repository, as the handlers see it.
pub(crate) struct Asked<'a> {
    pub(crate) headers: &'a HeaderMap,
    /// Path and query as the client wrote them.
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) head: bool,
    pub(crate) caller: &'a Caller,
}

impl Asked<'_> {
    /// Notes in the request's span what is served and where it came from.
    pub(crate) fn record(&self, digest: &Digest, source: Source) {
        Span::current().record("digest", field::display(digest)).record("source", source.as_str());
    }
}

impl<B: Backend> Service<B> {
    pub(crate) async fn answer(&self, parts: Parts, in_flight: InFlight) -> Response<ReplyBody> {
        let span = tracing::info_span!(
            "request",
            method = %parts.method,
            // Escaped: it is the client's text.
            path = ?parts.uri.path().chars().take(512).collect::<String>(),
            digest = field::Empty,
            source = field::Empty,
        );
        let outcome = async {
            let busy = in_flight.now > self.max_requests;
            let (label, mut response) = self.respond(&parts, busy).await;
            let status = response.status();
            tracing::debug!(status = status.as_u16(), "answered");
            self.metrics.answered(label, status);
            response.headers_mut().insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
            response.body_mut().hold(in_flight);
            response
        };
        outcome.instrument(span).await
    }

    async fn respond(&self, parts: &Parts, busy: bool) -> (RouteLabel, Response<ReplyBody>) {
        let head = parts.method == Method::HEAD;
        let refuse = |failure: Failure, subject: &str| {
            tracing::debug!(%failure, subject, "refused");
            failure.response(subject, head)
        };
        let route = match route(parts, busy) {
            Ok(route) => route,
            Err(error) => {
                let failure = error.into();
                self.refused.note(None, &failure, parts.uri.path());
                return (RouteLabel::Other, refuse(failure, ""));
            }
        };
        let label = route.label();
        let named = match route {
            Route::Ping if self.challenge && !parts.headers.contains_key(AUTHORIZATION) => {
                let challenges = Vec::new();
                return (label, refuse(Refusal::Unauthorized { challenges }.into(), ""));
            }
            Route::Ping => return (label, ping(head)),
            Route::Named(named) => named,
        };
        let response = match self.named(parts, &named, head).await {
            Ok(response) => response,
            Err(failure) => {
                let subject = Subject(&named).to_string();
                // Clients show their credentials only after they were asked for them: that is no failed pull.
                let asked = matches!(failure, Failure::Backend(Refusal::Unauthorized { .. }))
                    && !parts.headers.contains_key(AUTHORIZATION);
                if !asked {
                    self.refused.note(named.ns.as_ref().map(RegistryName::as_str), &failure, &subject);
                }
                refuse(failure, &subject)
            }
        };
        (label, response)
    }

    async fn named(&self, parts: &Parts, named: &Named, head: bool) -> Result<Response<ReplyBody>, Failure> {
        let caller = Caller::from_headers(&parts.headers).ok_or(RequestError::AuthorizationUnclear)?;
        let (path, query) = (parts.uri.path(), parts.uri.query().unwrap_or_default());
        let asked = Asked { headers: &parts.headers, path, query, head, caller: &caller };
        let backend = &*self.backend;
        let (registry, repository) = registry::resolve(backend, named)?;
        let kind = match named.what.clone() {
            What::Manifest(reference) => {
                let image = ImageRef { registry, repository, reference };
                return manifests::answer(backend, &asked, &image).await;
            }
            What::Blob(digest) => {
                let blob = BlobRef { registry, repository, digest };
                return blobs::answer(backend, &asked, &blob).await;
            }
            What::Tags => PassKind::Tags,
            What::Referrers(digest) => PassKind::Referrers(digest),
        };
        let pass = Pass { registry, repository, kind, query: named.query.clone() };
        pass::answer(backend, &asked, &pass).await
    }
}

/// Any other method is refused before the path is looked at: uploads have paths of their own.
fn route(parts: &Parts, busy: bool) -> Result<Route, RequestError> {
    if busy {
        return Err(RequestError::Busy);
    }
    let path = parts.uri.path();
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    if !reads && (path == "/v2" || path.starts_with("/v2/")) {
        return Err(RequestError::ReadOnly);
    }
    Route::parse(path, parts.uri.query().unwrap_or_default())
}

fn ping(head: bool) -> Response<ReplyBody> {
    let body = bytes::Bytes::from_static(b"{}");
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(if head { ReplyBody::empty() } else { ReplyBody::full(body) });
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LENGTH, length);
    response
}

/// What was asked for, as a user would write it.
struct Subject<'a>(&'a Named);

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ns) = &self.0.ns {
            write!(f, "{ns}/")?;
        }
        // The client's text: cut short, and without what could forge lines of a log.
        self.0.name.chars().take(256).try_for_each(|c| write!(f, "{}", c.escape_debug()))?;
        match &self.0.what {
            What::Manifest(shoal_proto::Reference::Tag(tag)) => write!(f, ":{tag}"),
            What::Manifest(shoal_proto::Reference::Digest(digest)) => write!(f, "@{digest}"),
            What::Blob(digest) => write!(f, ", blob {digest}"),
            What::Tags => f.write_str(", tags"),
            What::Referrers(digest) => write!(f, ", referrers of {digest}"),
        }
    }
}
