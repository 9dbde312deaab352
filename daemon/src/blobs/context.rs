//! Where and as whom the origin is asked for a blob.

use std::ops::Range;

use shoal_origin::{BlobStream, Failure, Identity, Kind, Origin, OriginError};
use shoal_proto::{Digest, Repository};
use tracing::debug;

/// Where and as whom the origin is asked for a blob, when this node may read from it.
#[derive(Clone, Debug)]
pub(crate) struct OriginContext {
    pub repository: Repository,
    pub kind: Kind,
    /// As whom the origin let the caller read.
    pub identity: Identity,
    /// The other identity that this caller may use: an account may have a limit of its own, and a repository may
    /// open to all, or close, while its blobs are read.
    pub fallback: Identity,
}

impl OriginContext {
    /// Begins to read a range of something that is `size` bytes long.
    pub(crate) async fn read(
        &self,
        origin: &Origin,
        digest: &Digest,
        size: u64,
        range: Range<u64>,
    ) -> Result<BlobStream, OriginError> {
        let Self { repository, kind, identity, fallback } = self;
        let read = |who| origin.read_blob(repository, kind.clone(), digest, size, range.clone(), who);
        let error = match read(identity).await {
            Err(error) if is_about_the_caller(&error) && origin.tells_apart(identity, fallback) => error,
            done => return done,
        };
        debug!(%digest, %error, "asking as the caller's other identity");
        // What was said first is what the tracker and the client should know, unless the second try helped.
        read(fallback).await.map_err(|_| error)
    }
}

/// Whether somebody else may be answered otherwise.
fn is_about_the_caller(error: &OriginError) -> bool {
    matches!(
        error.failure(),
        Failure::Unauthorized { .. } | Failure::Forbidden | Failure::Throttled { .. }
    )
}
