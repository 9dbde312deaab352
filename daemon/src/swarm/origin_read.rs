//! Reads the chunks of a lease from the origin, in order, and passes on each as soon as it is hashed.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use shoal_origin::{BlobStream, Failure, OriginError};
use shoal_proto::message::{Lease, LeaseFailure};
use shoal_proto::{ChunkIndex, ChunkLayout, ChunkValue, Entry, NodeId, SignedEntry, VerifiedChunk};
use shoal_store::StoreError;
use tracing::{debug, warn};

use super::Input;
use super::driver::DriverParts;
use super::fetch::kib;
use super::inbox::OriginFailure;
use super::write::{Checked, WriteError, WriteTo, write};
use crate::blobs::ActiveBlob;

/// A registry that says 429 without saying for how long is left alone for this long.
const THROTTLED_FOR: Duration = Duration::from_secs(5);

/// Reads, and tells the driver of each chunk and of the end. Cancelled by dropping.
pub(super) async fn origin_read(parts: DriverParts, lease: Lease, blob: Arc<ActiveBlob>, to: WriteTo) {
    let (swarm, token) = (lease.swarm.clone(), lease.token);
    let result = run(&parts, &lease, &blob, to).await;
    if let Err(failure) = &result {
        warn!(digest = %swarm.digest, reason = %failure.reason, "read from the origin ended early");
    }
    parts.handle.send(Input::OriginEnded { swarm, token, result }).await;
}

async fn run(
    parts: &DriverParts,
    lease: &Lease,
    blob: &ActiveBlob,
    to: WriteTo,
) -> Result<(), OriginFailure> {
    let mut next = lease.chunks.start;
    while next < lease.chunks.end {
        if let Some(value) = blob.kept(ChunkIndex(next)) {
            // It came before the last start, and was checked then.
            let signed = entry(lease, parts.me, ChunkIndex(next), value).sign(&parts.key);
            let signed = signed.map_err(|error| abandoned(&error.to_string()))?;
            parts.handle.send(Input::OriginChunk(signed)).await;
            next += 1;
            continue;
        }
        let missing = |index: &u32| blob.kept(ChunkIndex(*index)).is_none();
        let end = (next..lease.chunks.end).take_while(missing).last().unwrap_or(next) + 1;
        read(parts, lease, blob, next..end, &to).await?;
        next = end;
    }
    Ok(())
}

/// One ranged GET.
async fn read(
    parts: &DriverParts,
    lease: &Lease,
    blob: &ActiveBlob,
    wanted: Range<u32>,
    to: &WriteTo,
) -> Result<(), OriginFailure> {
    let layout = blob.layout;
    let origin = parts.origins.admit(&blob.registry).map_err(|error| failed(&error))?;
    let bytes = layout.range(ChunkIndex(wanted.start)).start
        ..layout.range(ChunkIndex(wanted.end.saturating_sub(1))).end;
    let stream = blob.context().read(&origin, &blob.digest, layout.size(), bytes).await;
    let stream = stream.map_err(|error| failed(&error))?;
    debug!(digest = %blob.digest, chunks = ?wanted, source = "origin", "reading under a lease");
    // A registry without Range sends the blob from its start: once is enough, so all of it is taken.
    let wanted = if stream.ignores_range() { 0..layout.count() } else { wanted };
    let mut chunks = Chunks::new(stream, layout);
    while chunks.next < wanted.end {
        let index = ChunkIndex(chunks.next);
        let len = layout.len_of(index);
        let memory = parts.memory.acquire_many(kib(len)).await;
        let _memory = memory.map_err(|_| abandoned("the node is stopping"))?;
        let bytes = chunks.read(parts, blob, len).await?;
        if blob.holds(index) {
            continue;
        }
        let signed = keep(parts, lease, layout, index, bytes.freeze(), to.clone()).await?;
        parts.metrics.chunks_from_origin.inc();
        parts.metrics.chunk_bytes_from_origin.inc_by(len);
        parts.handle.send(Input::OriginChunk(signed)).await;
    }
    Ok(())
}

fn entry(lease: &Lease, signer: NodeId, index: ChunkIndex, value: ChunkValue) -> Entry {
    Entry { swarm: lease.swarm.clone(), index, value, token: lease.token, signer }
}

/// Hashes a chunk, signs for it, and writes it with its entry as evidence.
async fn keep(
    parts: &DriverParts,
    lease: &Lease,
    layout: ChunkLayout,
    index: ChunkIndex,
    bytes: Bytes,
    to: WriteTo,
) -> Result<SignedEntry, OriginFailure> {
    let (key, me, granted) = (parts.key.clone(), parts.me, lease.clone());
    let check = move || {
        let chunk = VerifiedChunk::from_origin(&layout, index, bytes)?;
        let signed = entry(&granted, me, index, chunk.value).sign(&key)?;
        Ok(Checked { chunk, evidence: signed.to_bytes(), then: signed })
    };
    match write(parts, to, check).await {
        Some(Ok(signed)) => Ok(signed),
        // Another value is held: its signer or the origin lied, which the digest will tell.
        Some(Err(error @ (WriteError::Store(StoreError::Conflict { .. }) | WriteError::Sign(_)))) => {
            Err(abandoned(&error.to_string()))
        }
        Some(Err(WriteError::Store(error))) => {
            let reason: Arc<str> = error.to_string().into();
            let swarm = lease.swarm.clone();
            parts.handle.send(Input::StoreFailed { swarm, reason: reason.clone() }).await;
            Err(OriginFailure { why: LeaseFailure::Abandoned, reason })
        }
        Some(Err(WriteError::Mismatch(error))) => {
            Err(OriginFailure { why: LeaseFailure::Unreachable, reason: error.to_string().into() })
        }
        None => Err(abandoned("the node is stopping")),
    }
}

/// Cuts a stream of bytes into chunks.
struct Chunks {
    stream: BlobStream,
    /// The chunk whose first byte comes next.
    next: u32,
    rest: Bytes,
}

impl Chunks {
    fn new(stream: BlobStream, layout: ChunkLayout) -> Self {
        let next = layout.chunk_at(stream.start()).0;
        Self { stream, next, rest: Bytes::new() }
    }

    /// The next chunk, which has `len` bytes.
    async fn read(
        &mut self,
        parts: &DriverParts,
        blob: &ActiveBlob,
        len: u64,
    ) -> Result<BytesMut, OriginFailure> {
        let len = usize::try_from(len).map_err(|_| abandoned("a chunk is larger than memory"))?;
        let mut chunk = BytesMut::with_capacity(len);
        while chunk.len() < len {
            if self.rest.is_empty() {
                self.rest = match self.stream.next().await {
                    Some(Ok(bytes)) => bytes,
                    Some(Err(error)) => return Err(failed(&error)),
                    None => return Err(cut()),
                };
                blob.receive(self.rest.len() as u64);
                parts.origin_limit.take(self.rest.len() as u64).await;
            }
            let take = self.rest.len().min(len - chunk.len());
            chunk.extend_from_slice(&self.rest.split_to(take));
        }
        self.next += 1;
        Ok(chunk)
    }
}

fn cut() -> OriginFailure {
    OriginFailure { why: LeaseFailure::Unreachable, reason: "the body ended early".into() }
}

fn abandoned(reason: &str) -> OriginFailure {
    OriginFailure { why: LeaseFailure::Abandoned, reason: reason.into() }
}

fn failed(error: &OriginError) -> OriginFailure {
    let why = match error.failure() {
        Failure::Throttled { retry_after } => LeaseFailure::Throttled(retry_after.unwrap_or(THROTTLED_FOR)),
        Failure::Cut { .. } | Failure::Folder { .. } => LeaseFailure::Unreachable,
        failure if failure.is_outage() => LeaseFailure::Unreachable,
        _ => LeaseFailure::Refused,
    };
    OriginFailure { why, reason: error.to_string().into() }
}
