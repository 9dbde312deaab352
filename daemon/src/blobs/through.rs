//! What this node's disk cannot take is passed through: from the origin to the client that asked, kept nowhere.
//!
//! Nobody vouches for the single chunks of such a body, so the digest is what is left: all of the blob is read
//! and hashed, whatever part of it is wanted, and the last wanted bytes are held until it matched.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use shoal_origin::BlobStream;
use shoal_registry_proxy::ReadFailure;
use shoal_store::ContentHasher;
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use super::active::Wanted;
use super::service::BlobService;

/// Bytes that are hashed and given out at once. A shorter blob is wholly held until its digest matched.
const PIECE: usize = 512 << 10;
/// Bodies that are passed through at once; each holds two pieces, and others wait for their turn.
pub(super) const AT_ONCE: usize = 32;

/// A body on its way through.
pub(super) struct Through {
    service: BlobService,
    wanted: Wanted,
    stream: BlobStream,
    hasher: ContentHasher,
    /// Offset of the next byte from the origin.
    at: u64,
    /// What the origin sent beyond the last piece.
    rest: Bytes,
    _turn: OwnedSemaphorePermit,
}

impl Through {
    /// `why`: what the store said.
    pub(super) async fn open(service: BlobService, wanted: Wanted, why: &str) -> Result<Self, ReadFailure> {
        let Wanted { digest, size, ref registry, ref context } = wanted;
        let disk = service.store().dir().display();
        warn!(%digest, size, disk = %disk, why, "the disk cannot take a blob; it is passed through");
        service.metrics().blobs_passed_through.inc();
        let turn = service.through().places.clone().acquire_owned().await;
        let turn = turn.map_err(|_| ReadFailure::Stopping)?;
        let unavailable = |error: &dyn std::fmt::Display| {
            ReadFailure::Unavailable(format!("{why}; to pass it through: {error}"))
        };
        let origin = service.through().origins.admit(registry).map_err(|error| unavailable(&error))?;
        let stream =
            context.read(&origin, &digest, size, 0..size).await.map_err(|error| unavailable(&error))?;
        let hasher = ContentHasher::new(digest.algorithm());
        Ok(Self { service, wanted, stream, hasher, at: 0, rest: Bytes::new(), _turn: turn })
    }

    /// The next bytes of `range`, which starts where the bytes before ended.
    pub(super) async fn next(&mut self, range: &Range<u64>) -> Result<Bytes, ReadFailure> {
        let mut last = Bytes::new();
        while self.at < self.wanted.size {
            let start = self.at;
            let piece = self.piece().await?;
            let within = |offset: u64| {
                let offset = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
                offset.min(piece.len())
            };
            let wanted = piece.slice(within(range.start)..within(range.end));
            if wanted.is_empty() {
                continue;
            }
            if self.at < range.end {
                return Ok(wanted);
            }
            last = wanted;
        }
        if std::mem::replace(&mut self.hasher, ContentHasher::new(self.wanted.digest.algorithm())).finish()
            != self.wanted.digest
        {
            self.service.metrics().digest_mismatches.inc();
            let reason = format!("what the origin sent for {} has another digest", self.wanted.digest);
            return Err(ReadFailure::Corrupt(reason));
        }
        Ok(last)
    }

    /// Reads and hashes the next bytes of the blob.
    async fn piece(&mut self) -> Result<Bytes, ReadFailure> {
        let mut piece = BytesMut::with_capacity(PIECE);
        while piece.len() < PIECE && self.at + (piece.len() as u64) < self.wanted.size {
            if self.rest.is_empty() {
                self.rest = match self.stream.next().await {
                    Some(Ok(bytes)) => bytes,
                    Some(Err(error)) => return Err(ReadFailure::Unavailable(error.to_string())),
                    None => return Err(ReadFailure::Unavailable("the origin ended the body early".into())),
                };
                self.service.through().limit.take(self.rest.len() as u64).await;
            }
            let take = self.rest.len().min(PIECE - piece.len());
            piece.extend_from_slice(&self.rest.split_to(take));
        }
        let piece = piece.freeze();
        self.at += piece.len() as u64;
        let (mut hasher, bytes) = (self.hasher.clone(), piece.clone());
        let hash = move || {
            hasher.update(&bytes);
            hasher
        };
        self.hasher = tokio::task::spawn_blocking(hash).await.map_err(|_| ReadFailure::Stopping)?;
        Ok(piece)
    }
}
