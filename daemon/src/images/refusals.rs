//! What an origin's failure means to a client: the only place where one becomes the other.

use shoal_origin::{Failure, OriginError};
use shoal_registry_proxy::Refusal;

/// What was asked for, which decides what a 404 says.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject {
    Manifest,
    Blob,
    Repository,
}

pub(super) fn refusal(error: &OriginError, subject: Subject) -> Refusal {
    let reason = error.to_string();
    match error.failure() {
        Failure::Unauthorized { challenge } => {
            Refusal::Unauthorized { challenges: challenge.iter().cloned().collect() }
        }
        Failure::Forbidden | Failure::Refused(_) => Refusal::Denied { reason },
        Failure::NotFound => match subject {
            Subject::Manifest => Refusal::ManifestUnknown,
            Subject::Blob => Refusal::BlobUnknown,
            Subject::Repository => Refusal::NameUnknown,
        },
        Failure::Throttled { retry_after } => Refusal::Throttled { retry_after: *retry_after },
        Failure::Unreachable { .. } | Failure::Server { .. } => Refusal::Unavailable { reason },
        Failure::WrongDigest { .. } | Failure::TooLarge { .. } if matches!(subject, Subject::Manifest) => {
            Refusal::ManifestInvalid { reason }
        }
        _ => Refusal::UpstreamFailed { reason },
    }
}
