//! Who asks.

use std::fmt;

use http::HeaderMap;
use http::header::AUTHORIZATION;

/// The client of a request, as far as it said who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Absent for anonymous callers.
    pub authorization: Option<Authorization>,
}

/// The value of an `Authorization` header. Its text never reaches a log: `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Authorization(Box<str>);

impl Authorization {
    pub fn new(value: &str) -> Self {
        Self(value.into())
    }

    /// The header's value, to be sent to the upstream that the request names and nowhere else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorization(hidden)")
    }
}

impl Caller {
    /// Reads the caller from a request; `None` where `Authorization` occurs twice or is not text, since
    /// whom such a request means is a guess.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Some(Self::default()) };
        if values.next().is_some() {
            return None;
        }
        let value = value.to_str().ok()?.trim();
        let authorization = (!is_anonymous(value)).then(|| Authorization::new(value));
        Some(Self { authorization })
    }
}

/// c/image sends an empty user and password, `Basic Og==`, when it was challenged and has none.
fn is_anonymous(value: &str) -> bool {
    let Some((scheme, credentials)) = value.split_once(' ') else { return true };
    scheme.eq_ignore_ascii_case("basic") && credentials.trim() == "Og=="
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn caller(values: &[&'static str]) -> Option<Caller> {
        let mut headers = HeaderMap::new();
        values.iter().for_each(|v| {
            headers.append(AUTHORIZATION, HeaderValue::from_static(v));
        });
        Caller::from_headers(&headers)
    }

    #[test]
    fn empty_credentials_are_anonymous() {
        for values in [&[][..], &["Basic Og=="], &["basic Og== "], &["Basic "], &["Basic"], &[""]] {
            assert_eq!(caller(values), Some(Caller::default()), "{values:?}");
        }
    }

    #[test]
    fn a_token_is_kept_and_hidden() {
        let caller = caller(&["Bearer c2VjcmV0"]).unwrap();
        assert_eq!(caller.authorization.as_ref().unwrap().expose(), "Bearer c2VjcmV0");
        assert!(!format!("{caller:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn two_identities_are_none() {
        assert_eq!(caller(&["Bearer a", "Bearer b"]), None);
    }
}
