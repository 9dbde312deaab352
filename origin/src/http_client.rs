//! One origin's HTTP client: it sends, follows redirects and counts, and decides nothing else.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::redirect::Policy;
use url::Url;

use crate::address::{AddressRules, GuardedResolver, NotPublic};
use crate::challenge;
use crate::config::{ConfigError, Settings};
use crate::counters::Counters;
use crate::error::{Failure, Refusal};
use crate::outages::Outages;
use crate::redirect::{self, MAX_REDIRECTS};
use crate::{retry, tls};

// Flow control of HTTP/2: room for 1 Gbit/s at 30 ms per stream, and for four such streams.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Times that bound a request; see [`crate::OriginsConfig`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    pub(crate) read: Duration,
}

pub(crate) struct HttpClient {
    client: reqwest::Client,
    rules: Arc<AddressRules>,
    outages: Outages,
    counters: Arc<Counters>,
}

/// A request, without what proves an identity.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// The fields of a form, encoded; empty for none.
    pub(crate) form: String,
}

/// An answer whose redirects were followed; its body has yet to be read.
pub(crate) struct Answer {
    response: reqwest::Response,
    /// Whether another host than the one asked gave it.
    pub(crate) elsewhere: bool,
    counters: Arc<Counters>,
}

impl Ask {
    pub(crate) fn get(url: Url) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new(), form: String::new() }
    }
}

impl HttpClient {
    pub(crate) fn new(
        settings: &Settings,
        rules: AddressRules,
        timeouts: Timeouts,
        system_proxy: bool,
        counters: Arc<Counters>,
    ) -> Result<Self, ConfigError> {
        let rules = Arc::new(rules);
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::client_config(settings)?)
            .dns_resolver(GuardedResolver(rules.clone()))
            .redirect(Policy::none())
            // Retries are decided in one place, see `retry`.
            .retry(reqwest::retry::never())
            .user_agent(concat!("shoal/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(timeouts.connect)
            .read_timeout(timeouts.read)
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW);
        if !system_proxy {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| ConfigError::Client {
            registry: settings.name.clone(),
            reason: chain_text(&error),
        })?;
        Ok(Self { client, rules, outages: Outages::default(), counters })
    }

    /// Sends a request and follows its redirects. Any status is an answer.
    pub(crate) async fn send(
        &self,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let mut url = ask.url.clone();
        let mut authorization = authorization;
        let mut elsewhere = false;
        self.rules.check(&url).map_err(Failure::Refused)?;
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_once(ask, &url, authorization).await?;
            let next =
                redirect::next_hop(&ask.method, &url, response.status(), response.headers(), &self.rules)?;
            let Some(hop) = next else {
                return Ok(Answer { response, elsewhere, counters: self.counters.clone() });
            };
            if !hop.keeps_authorization {
                authorization = None;
                elsewhere = true;
            }
            url = hop.url;
        }
        Err(Failure::Refused(Refusal::Redirects))
    }

    async fn send_once(
        &self,
        ask: &Ask,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<reqwest::Response, Failure> {
        let mut request = self.client.request(ask.method.clone(), url.clone()).headers(ask.headers.clone());
        // Digests are of the bytes as they are stored.
        request = request.header(ACCEPT_ENCODING, "identity");
        if let Some(value) = authorization {
            let mut value = value.clone();
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if !ask.form.is_empty() {
            request = request
                .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(ask.form.clone());
        }
        let host = host_and_port(url);
        if !self.outages.may_try(&host, Instant::now()) {
            return Err(Failure::Unreachable { reason: format!("{host} did not take a connection lately") });
        }
        self.counters.count_request();
        let sent = request.send().await;
        match &sent {
            Ok(_) => self.outages.answered(&host),
            Err(error) if error.is_connect() && error.is_timeout() => {
                self.outages.was_silent(&host, Instant::now());
            }
            Err(_) => {}
        }
        sent.map_err(|error| failure(&host, error))
    }
}

impl Answer {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The length that the header tells, also of an answer to HEAD.
    pub(crate) fn content_length(&self) -> Option<u64> {
        self.headers().get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }

    /// The next piece of the body; `None` at its end.
    pub(crate) async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        let piece = self.response.chunk().await;
        let piece = piece.map_err(|error| failure(&host_and_port(self.response.url()), error))?;
        self.counters.count_received(piece.as_ref().map_or(0, Bytes::len));
        Ok(piece)
    }

    /// The whole body, if it has at most `limit` bytes.
    pub(crate) async fn body(mut self, limit: u64) -> Result<Bytes, Failure> {
        if self.content_length().is_some_and(|length| length > limit) {
            return Err(Failure::TooLarge { limit });
        }
        let mut body = BytesMut::new();
        while let Some(piece) = self.piece().await? {
            if (body.len() + piece.len()) as u64 > limit {
                return Err(Failure::TooLarge { limit });
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }

    /// The failure that a status other than of success means.
    pub(crate) fn check(self) -> Result<Self, Failure> {
        let status = self.status();
        if status.is_success() {
            return Ok(self);
        }
        Err(match status.as_u16() {
            // A storage host's challenge is none that a client of the registry could answer.
            401 if self.elsewhere => Failure::Forbidden,
            401 => Failure::Unauthorized { challenge: challenge::text(self.headers()) },
            403 => Failure::Forbidden,
            404 => Failure::NotFound,
            429 => Failure::Throttled { retry_after: self.retry_after() },
            status @ 500..=599 => Failure::Server { status },
            status => Failure::Status { status },
        })
    }

    fn retry_after(&self) -> Option<Duration> {
        let value = self.headers().get(RETRY_AFTER)?.to_str().ok()?;
        retry::parse_retry_after(value, SystemTime::now())
    }
}

fn host_and_port(url: &Url) -> String {
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{}:{port}", url.host_str().unwrap_or_default())
}

fn failure(host: &str, error: reqwest::Error) -> Failure {
    // URLs of storage carry signatures: they must not reach a log.
    let error = error.without_url();
    let mut cause = error.source();
    while let Some(inner) = cause {
        if let Some(NotPublic(host)) = inner.downcast_ref() {
            return Failure::Refused(Refusal::Address(host.clone()));
        }
        cause = inner.source();
    }
    let reason = chain_text(&error);
    let hint = if speaks_no_tls(&error) { NO_TLS } else { "" };
    Failure::Unreachable { reason: format!("{host}: {reason}{hint}") }
}

const NO_TLS: &str = "; it does not speak TLS: if it is a plain-HTTP registry, set plain_http = true in its table of \
                      [mirror.registries]";

/// Whether what came in place of a handshake is no TLS at all.
fn speaks_no_tls(error: &reqwest::Error) -> bool {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |&error| error.source()).any(|error| {
        // rustls' error is inside the error of the socket, which passes over it when it names its source.
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = inner.and_then(|inner| inner.downcast_ref());
        matches!(tls.or_else(|| error.downcast_ref()), Some(rustls::Error::InvalidMessage(_)))
    })
}

/// An error and its reasons. Many errors repeat their source in their own words.
fn chain_text(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let reason = inner.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = inner.source();
    }
    text
}
