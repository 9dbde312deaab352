//! What a registry asks for with `WWW-Authenticate` (RFC 9110, section 11.6.1).

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

// Longer than any registry's; what is beyond is not read.
const MAX_HEADER: usize = 4096;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer(BearerChallenge),
}

/// As in the token authentication of the distribution project. `service` and `scope` can be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BearerChallenge {
    pub(crate) realm: String,
    pub(crate) service: Option<String>,
    pub(crate) scope: Option<String>,
}

/// The challenges of an answer as one text, to be passed on.
pub(crate) fn text(headers: &HeaderMap) -> Option<String> {
    let all: Vec<&str> = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).collect();
    let joined = all.join(", ");
    (!joined.is_empty() && joined.len() <= MAX_HEADER).then_some(joined)
}

/// The challenge to answer: Bearer where there is a choice, because its token is worth less than a password.
pub(crate) fn choose(text: &str) -> Option<Challenge> {
    let all = parse(text);
    let bearer = all.iter().find(|challenge| matches!(challenge, Challenge::Bearer(_)));
    bearer.or(all.first()).cloned()
}

fn parse(text: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut bearer: Option<BearerChallenge> = None;
    for item in split_unquoted(text) {
        // `scheme name=value` opens a challenge, `name=value` belongs to the one before.
        let (scheme, param) = match item.split_once(char::is_whitespace) {
            Some((first, rest)) if !first.contains('=') => (Some(first), rest.trim()),
            None if !item.contains('=') => (Some(item), ""),
            _ => (None, item),
        };
        if let Some(scheme) = scheme {
            found.extend(bearer.take().map(Challenge::Bearer));
            if scheme.eq_ignore_ascii_case("bearer") {
                bearer = Some(BearerChallenge::default());
            } else if scheme.eq_ignore_ascii_case("basic") {
                found.push(Challenge::Basic);
            }
        }
        let (Some(bearer), Some((name, value))) = (&mut bearer, param.split_once('=')) else { continue };
        let value = unquote(value.trim());
        match name.trim().to_ascii_lowercase().as_str() {
            "realm" => bearer.realm = value,
            "service" => bearer.service = Some(value),
            "scope" => bearer.scope = Some(value),
            _ => {}
        }
    }
    found.extend(bearer.map(Challenge::Bearer));
    found.retain(|challenge| !matches!(challenge, Challenge::Bearer(bearer) if bearer.realm.is_empty()));
    found
}

/// The items of a list that is separated by commas, which may stand in quoted strings too.
fn split_unquoted(text: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |c: char| {
        let separates = c == ',' && !quoted;
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            _ => {}
        }
        separates
    })
    .map(str::trim)
    .filter(|item| !item.is_empty())
}

fn unquote(value: &str) -> String {
    let Some(inner) = value.strip_prefix('"') else { return value.to_owned() };
    let inner = inner.strip_suffix('"').unwrap_or(inner);
    let mut text = String::with_capacity(inner.len());
    let mut escaped = false;
    for c in inner.chars() {
        if c == '\\' && !escaped {
            escaped = true;
        } else {
            text.push(c);
            escaped = false;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer(BearerChallenge {
            realm: realm.to_owned(),
            service: owned(service),
            scope: owned(scope),
        }))
    }

    #[test]
    fn challenges_of_registries() {
        let hub =
            r#"Bearer realm="https://a/token",service="registry.docker.io",scope="repository:x:pull,push""#;
        assert_eq!(
            choose(hub),
            bearer("https://a/token", Some("registry.docker.io"), Some("repository:x:pull,push"))
        );
        assert_eq!(choose(r#"bearer REALM="https://a/t""#), bearer("https://a/t", None, None));
        assert_eq!(choose("Bearer realm=https://a/t, error=x"), bearer("https://a/t", None, None));
        assert_eq!(choose(r#"Basic realm="a, b""#), Some(Challenge::Basic));
        assert_eq!(choose("Basic"), Some(Challenge::Basic));
    }

    #[test]
    fn bearer_is_chosen_of_two() {
        let both = r#"Basic realm="x", Bearer realm="https://a/t",service="s""#;
        assert_eq!(choose(both), bearer("https://a/t", Some("s"), None));
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for text in ["", ",", "Bearer", "Bearer service=\"x\"", "Negotiate", "=", "\"", "Bearer \"\\"] {
            assert_eq!(choose(text), None, "{text}");
        }
    }
}
