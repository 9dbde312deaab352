//! What can go wrong between a node and an origin.

use std::time::Duration;

use shoal_proto::Digest;

use crate::credentials::CredentialError;

/// A request to an origin that failed: what was asked, and why it failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{subject}: {failure}")]
pub struct OriginError {
    subject: Box<str>,
    failure: Failure,
}

/// Why a request to an origin failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// 401, with the registry's own challenge, to be passed on to a client.
    #[error("the registry wants other credentials")]
    Unauthorized { challenge: Option<String> },
    #[error("the registry forbids it")]
    Forbidden,
    #[error("not found")]
    NotFound,
    /// 429. `retry_after` is at most an hour.
    #[error("the registry limits the rate of requests")]
    Throttled { retry_after: Option<Duration> },
    #[error("the registry failed with status {status}")]
    Server { status: u16 },
    #[error("the registry answered with the unexpected status {status}")]
    Status { status: u16 },
    /// No answer: name, connection, TLS or time.
    #[error("unreachable: {reason}")]
    Unreachable { reason: String },
    #[error("refused: {0}")]
    Refused(Refusal),
    #[error("the answer is larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the registry sent {got} for {want}")]
    WrongDigest { want: Box<Digest>, got: Box<Digest> },
    #[error("{got} bytes where {want} were due")]
    WrongLength { want: u64, got: u64 },
    #[error("the registry answered with another range than was asked for")]
    WrongRange,
    /// The body ended early, and reading on from there failed too often.
    #[error("cut off after byte {at}")]
    Cut { at: u64 },
    #[error("the answer makes no sense: {0}")]
    Malformed(&'static str),
    #[error("credentials: {0}")]
    Credentials(#[from] CredentialError),
    #[error("cannot read the layout folder: {reason}")]
    Folder { reason: String },
}

/// The rule that forbids a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the registry {0} is not on the list of allowed ones")]
    NotAllowed(String),
    #[error("{0} is or resolves to an address that is not public; name it in the registry's configuration")]
    Address(String),
    #[error("{0} is not a URL that a registry may point to")]
    Url(String),
    #[error("{0} would leave TLS")]
    Downgrade(String),
    #[error("more redirects than are followed")]
    Redirects,
    #[error(
        "the token realm {0} may not receive this registry's credentials; add it to its realms to allow it"
    )]
    Realm(String),
}

impl OriginError {
    pub(crate) fn new(subject: impl Into<Box<str>>, failure: Failure) -> Self {
        Self { subject: subject.into(), failure }
    }

    /// What was asked of whom.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    /// Whether the origin cannot answer at present, rather than having said no. Only then may an older
    /// answer take the place of a new one.
    pub fn is_outage(&self) -> bool {
        self.failure.is_outage()
    }
}

impl Failure {
    pub(crate) fn wrong_digest(want: Digest, got: Digest) -> Self {
        Self::WrongDigest { want: Box::new(want), got: Box::new(got) }
    }

    /// See [`OriginError::is_outage`].
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Server { .. } | Self::Throttled { .. })
    }
}
