use std::sync::Once;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A user name with its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub user: String,
    pub password: String,
}

impl Credentials {
    pub fn new(user: &str, password: &str) -> Self {
        Self { user: user.to_owned(), password: password.to_owned() }
    }

    /// The value of an `Authorization` header, RFC 7617.
    pub fn basic(&self) -> String {
        format!("Basic {}", self.base64())
    }

    /// `user:password` in Base64, as in the `auth` field of config.json.
    pub fn base64(&self) -> String {
        STANDARD.encode(format!("{}:{}", self.user, self.password))
    }
}

/// An HTTP client that follows no redirect, asks no proxy and waits no longer than a test may hang.
pub fn client() -> reqwest::Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Fails only if the test has installed one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(std::time::Duration::from_secs(120))
        .build()
        .unwrap()
}
