//! Fetches one chunk from a neighbour: asked for, checked, written.

use bytes::Bytes;
use shoal_proto::message::ChunkRequest;
use shoal_proto::{ChunkLayout, ChunkValue, NodeId, VerifiedChunk};
use shoal_store::StoreError;
use shoal_swarm::peer::FetchOutcome;
use shoal_transport::FetchedChunk;
use tracing::{debug, warn};

use super::driver::DriverParts;
use super::write::{Checked, WriteError, WriteTo, write};
use super::{Input, SwarmHandle};

/// What to fetch, as the machine decided.
#[derive(Clone, Debug)]
pub(super) struct Fetch {
    pub request: u64,
    pub from: NodeId,
    pub chunk: ChunkRequest,
    pub layout: ChunkLayout,
    /// What the bytes must hash to.
    pub want: ChunkValue,
    /// What vouches for that value, kept with the chunk; empty where an attested map does.
    pub evidence: Vec<u8>,
    pub to: WriteTo,
}

/// Fetches, and tells the driver how it ended. Cancelled by dropping.
pub(super) async fn fetch(parts: DriverParts, fetch: Fetch) {
    let request = fetch.request;
    let (swarm, index) = (fetch.chunk.swarm.clone(), fetch.chunk.index);
    let handle: SwarmHandle = parts.handle.clone();
    let outcome = match run(&parts, fetch).await {
        Ok(outcome) => outcome,
        Err(error) => {
            warn!(digest = %swarm.digest, chunk = %index, %error, "cannot keep a chunk");
            handle.send(Input::StoreFailed { swarm: swarm.clone(), reason: error.to_string().into() }).await;
            FetchOutcome::Failed
        }
    };
    handle.send(Input::Fetched { request, swarm, index, outcome }).await;
}

async fn run(parts: &DriverParts, fetch: Fetch) -> Result<FetchOutcome, StoreError> {
    let Fetch { from, chunk, layout, want, evidence, to, .. } = fetch;
    let len = layout.len_of(chunk.index);
    let Ok(expected) = u32::try_from(len) else { return Ok(FetchOutcome::Failed) };
    let Ok(_memory) = parts.memory.acquire_many(kib(len)).await else { return Ok(FetchOutcome::Failed) };
    let answer = parts.bulk.fetch(from, chunk.clone(), expected).await;
    let bytes: Bytes = match answer {
        Ok(FetchedChunk::Bytes(bytes)) => bytes,
        Ok(FetchedChunk::Busy) => return Ok(FetchOutcome::Busy),
        Ok(FetchedChunk::NotHeld) => return Ok(FetchOutcome::NotHeld),
        Err(error) => {
            debug!(peer = %from, chunk = %chunk.index, %error, "no chunk");
            return Ok(FetchOutcome::Failed);
        }
    };
    let index = chunk.index;
    let check = move || {
        let chunk = VerifiedChunk::check(&layout, index, bytes, want)?;
        Ok(Checked { chunk, evidence, then: () })
    };
    match write(parts, to, check).await {
        Some(Ok(())) => {
            parts.metrics.chunks_from_peers.inc();
            parts.metrics.chunk_bytes_from_peers.inc_by(len);
            Ok(FetchOutcome::Stored)
        }
        Some(Err(WriteError::Mismatch(error))) => {
            warn!(peer = %from, digest = %chunk.swarm.digest, %error, "a peer sent wrong bytes");
            parts.metrics.chunks_rejected.inc();
            Ok(FetchOutcome::Mismatch)
        }
        // Another value is held: one of the two signers lied, which the digest will tell.
        Some(Err(WriteError::Store(StoreError::Conflict { .. }) | WriteError::Sign(_))) | None => {
            Ok(FetchOutcome::Failed)
        }
        Some(Err(WriteError::Store(error))) => Err(error),
    }
}

/// Memory is counted in KiB: a semaphore's permits are 32 bits wide.
pub(super) fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}
