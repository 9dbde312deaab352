use shoal_proto::DigestError;

use super::messages::{Failed, FailureKind};

/// Why the daemon does not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// To ask again later may help.
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Refused(String),
    #[error("the daemon gave an answer that makes no sense: {0}")]
    Answer(&'static str),
    #[error("the daemon named a digest that is none")]
    Digest(#[from] DigestError),
    #[error("the link to the daemon is closed")]
    Closed,
}

impl From<Failed> for LinkError {
    fn from(failed: Failed) -> Self {
        match failed.kind() {
            FailureKind::Unavailable => Self::Unavailable(failed.text),
            FailureKind::Refused | FailureKind::Invalid => Self::Refused(failed.text),
        }
    }
}
