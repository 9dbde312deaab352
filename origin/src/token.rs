//! Asking a token server for a token, as in the token authentication of the distribution project and, for
//! refresh tokens, in its OAuth 2 form.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Method, StatusCode};
use serde::Deserialize;
use shoal_proto::Repository;
use url::{Url, form_urlencoded};

use crate::credentials::Credentials;
use crate::error::Failure;
use crate::http_client::{Ask, HttpClient};
use crate::retry;

// What the token specification gives a token that tells no lifetime.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(60);

// Longer ones are asked for again: a lifetime is the word of the token server.
const MAX_LIFETIME: Duration = Duration::from_secs(12 * 3600);

// Bearer tokens have a few KiB.
const MAX_ANSWER: u64 = 256 << 10;

const CLIENT_ID: &str = "shoal";

/// A request for a token.
pub(crate) struct TokenRequest<'a> {
    pub(crate) realm: Url,
    pub(crate) service: Option<String>,
    pub(crate) scope: String,
    /// The URL that repositories of the registry are under.
    pub(crate) registry: &'a Url,
}

impl TokenRequest<'_> {
    /// The token and its lifetime. `credentials` must be fit for the realm.
    pub(crate) async fn send(
        &self,
        http: &HttpClient,
        credentials: Option<&Credentials>,
    ) -> Result<(HeaderValue, Duration), Failure> {
        let mut n = 1;
        loop {
            match self.send_once(http, credentials).await {
                Err(failure) if n < retry::TRIES && retry::is_worthwhile(&failure) => {
                    retry::pause_before(n).await;
                    n += 1;
                }
                done => return done,
            }
        }
    }

    async fn send_once(
        &self,
        http: &HttpClient,
        credentials: Option<&Credentials>,
    ) -> Result<(HeaderValue, Duration), Failure> {
        let answer = match credentials {
            Some(Credentials::IdentityToken(token)) => {
                let fields = [("grant_type", "refresh_token"), ("refresh_token", token.expose())];
                http.send(&self.post(&fields), None).await?
            }
            Some(Credentials::Basic { user, password }) => {
                let authorization = basic_header(user, password.expose())?;
                let answer = http.send(&self.get(), Some(&authorization)).await?;
                // Some servers know only the form of OAuth 2.
                if matches!(answer.status(), StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) {
                    let fields =
                        [("grant_type", "password"), ("username", user), ("password", password.expose())];
                    http.send(&self.post(&fields), None).await?
                } else {
                    answer
                }
            }
            Some(Credentials::RegistryToken(_)) | None => http.send(&self.get(), None).await?,
        };
        let body = match answer.check() {
            Ok(answer) => answer.body(MAX_ANSWER).await?,
            // The token server's own challenge is of no use to a client, which speaks to the registry; and a
            // token server that is not there is a registry that does not work.
            Err(Failure::Unauthorized { .. } | Failure::Status { status: 400 }) => {
                return Err(Failure::Unauthorized { challenge: None });
            }
            Err(Failure::NotFound) => return Err(Failure::Malformed("a realm without a token server")),
            Err(failure) => return Err(failure),
        };
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|_| Failure::Malformed("a token that is not the JSON due"))?;
        let token = if answer.token.is_empty() { &answer.access_token } else { &answer.token };
        if token.is_empty() {
            return Err(Failure::Malformed("an answer of a token server without a token"));
        }
        Ok((bearer_header(token)?, lifetime(answer.expires_in)))
    }

    fn get(&self) -> Ask {
        let mut url = self.realm.clone();
        let mut query = url.query_pairs_mut();
        if let Some(service) = &self.service {
            query.append_pair("service", service);
        }
        query.append_pair("scope", &self.scope);
        drop(query);
        Ask::get(url)
    }

    fn post(&self, fields: &[(&str, &str)]) -> Ask {
        // OAuth 2 wants a service; a challenge without one means the registry itself.
        let host = self.registry.host_str().unwrap_or_default();
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("service", self.service.as_deref().unwrap_or(host));
        form.append_pair("scope", &self.scope).append_pair("client_id", CLIENT_ID);
        for (name, value) in fields {
            form.append_pair(name, value);
        }
        Ask { method: Method::POST, form: form.finish(), ..Ask::get(self.realm.clone()) }
    }
}

#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    expires_in: Option<f64>,
}

/// Only to pull: whatever a registry puts into its challenge, a token that is worth more is not asked for.
pub(crate) fn scope(repository: &Repository, challenged: Option<&str>) -> String {
    let mut parts = challenged.unwrap_or_default().split_whitespace();
    let name =
        parts.find_map(|part| part.strip_prefix("repository:")?.rsplit_once(':').map(|(name, _)| name));
    format!("repository:{}:pull", name.unwrap_or(repository.as_str()))
}

fn lifetime(expires_in: Option<f64>) -> Duration {
    let told = expires_in.filter(|seconds| *seconds >= 1.0);
    let told = told.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    told.unwrap_or(DEFAULT_LIFETIME).min(MAX_LIFETIME)
}

pub(crate) fn basic_header(user: &str, password: &str) -> Result<HeaderValue, Failure> {
    secret_header(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

pub(crate) fn bearer_header(token: &str) -> Result<HeaderValue, Failure> {
    secret_header(&format!("Bearer {token}"))
}

fn secret_header(text: &str) -> Result<HeaderValue, Failure> {
    let mut value =
        HeaderValue::from_str(text).map_err(|_| Failure::Malformed("a token that fits into no header"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_asked_for_to_pull_only() {
        let repository = "a/b".parse().unwrap();
        for (challenged, want) in [
            (None, "repository:a/b:pull"),
            (Some("repository:proxy/a/b:pull,push,delete"), "repository:proxy/a/b:pull"),
            (Some("registry:catalog:*"), "repository:a/b:pull"),
            (Some("registry:catalog:* repository:x:*"), "repository:x:pull"),
        ] {
            assert_eq!(scope(&repository, challenged), want);
        }
    }

    #[test]
    fn lifetimes_are_bounded() {
        for (told, want) in [
            (None, 60),
            (Some(0.0), 60),
            (Some(-5.0), 60),
            (Some(f64::NAN), 60),
            (Some(300.0), 300),
            (Some(1e30), 60),
            (Some(1e9), 43_200),
        ] {
            assert_eq!(lifetime(told), Duration::from_secs(want), "{told:?}");
        }
    }
}
