//! On whose behalf an origin is asked.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use sha2::{Digest as _, Sha256};

use crate::credentials::{Credentials, Secret};

/// On whose behalf an origin is asked.
#[derive(Clone, Debug)]
pub enum Identity {
    Anonymous,
    /// This node, with the credentials of its configuration (none: the same as anonymous).
    Node,
    /// A client, with what it sent itself.
    Caller(CallerAuthorization),
}

/// The `Authorization` header that a client sent. Its value is never printed.
#[derive(Clone)]
pub struct CallerAuthorization {
    header: HeaderValue,
    kind: CallerKind,
}

#[derive(Clone)]
enum CallerKind {
    Basic(Credentials),
    /// Sent on as it is: a token that the client got for this registry, or a scheme unknown here.
    AsIs,
}

/// Tells identities apart in caches without keeping their secrets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityKey([u8; 32]);

impl Identity {
    /// The identity behind a request with this `Authorization` header. An empty user and password
    /// (`Basic Og==`, which podman sends when it has none) is anonymous.
    pub fn from_authorization(header: Option<&HeaderValue>) -> Self {
        let Some(header) = header else { return Self::Anonymous };
        let kind = match basic_credentials(header) {
            Some((user, password)) if user.is_empty() && password.is_empty() => return Self::Anonymous,
            Some((user, password)) => {
                CallerKind::Basic(Credentials::Basic { user, password: Secret::new(password) })
            }
            None => CallerKind::AsIs,
        };
        let mut header = header.clone();
        header.set_sensitive(true);
        Self::Caller(CallerAuthorization { header, kind })
    }

    /// A key for caches: equal for equal secrets, and of no use to whoever reads it.
    pub fn key(&self) -> IdentityKey {
        // The first byte keeps the three kinds apart whatever a caller sends.
        let (kind, secret): (u8, &[u8]) = match self {
            Self::Anonymous => (0, b""),
            Self::Node => (1, b""),
            Self::Caller(caller) => (2, caller.header.as_bytes()),
        };
        IdentityKey(Sha256::new().chain_update([kind]).chain_update(secret).finalize().into())
    }
}

impl CallerAuthorization {
    pub(crate) fn basic(&self) -> Option<&Credentials> {
        match &self.kind {
            CallerKind::Basic(credentials) => Some(credentials),
            CallerKind::AsIs => None,
        }
    }

    pub(crate) fn header(&self) -> &HeaderValue {
        &self.header
    }
}

fn basic_credentials(header: &HeaderValue) -> Option<(String, String)> {
    let (scheme, value) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(value.trim()).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

impl fmt::Debug for CallerAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallerAuthorization(redacted)")
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Four bytes tell identities apart in a log.
        write!(f, "IdentityKey({})", hex::encode(self.0.get(..4).unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Identity {
        Identity::from_authorization(Some(&HeaderValue::from_str(text).unwrap()))
    }

    #[test]
    fn an_empty_user_and_password_is_anonymous() {
        assert!(matches!(of("Basic Og=="), Identity::Anonymous));
        assert!(matches!(Identity::from_authorization(None), Identity::Anonymous));
    }

    #[test]
    fn basic_is_read_and_anything_else_is_sent_on() {
        let Identity::Caller(basic) = of("basic dTpwOnE=") else { panic!() };
        assert!(matches!(basic.basic(), Some(Credentials::Basic { user, password })
            if user == "u" && password.expose() == "p:q"));
        for text in ["Bearer abc", "Basic ???", "Basic dQ=="] {
            let Identity::Caller(caller) = of(text) else { panic!() };
            assert!(caller.basic().is_none(), "{text}");
        }
    }

    #[test]
    fn keys_differ_by_secret_and_by_kind() {
        let keys =
            [Identity::Anonymous.key(), Identity::Node.key(), of("Bearer a").key(), of("Bearer b").key()];
        for (i, a) in keys.iter().enumerate() {
            for (j, b) in keys.iter().enumerate() {
                assert_eq!(a == b, i == j);
            }
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        for text in ["Basic dTpob3JzZQ==", "Bearer horse"] {
            let shown = format!("{:?}", of(text));
            assert!(!shown.contains("horse") && !shown.contains("dTpo"), "{shown}");
        }
    }
}
