//! The content digest of each partial blob, computed while its chunks become contiguous.
//!
//! It is serial within a blob; a few threads serve all blobs in turn, one chunk at a time. Bytes just written
//! are kept for it as far as a budget allows; others are read back, and then checked like any read, so that a
//! fault of this disk never looks like a lie of whoever signed for the chunk.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError};

use bytes::Bytes;
use shoal_proto::{Algorithm, BLOCK_SIZE, ChunkIndex, ChunkMap, SwarmId};

use crate::blob::{Blob, Recent, lock};
use crate::flush::ROWS_WITHIN;
use crate::reader::{BlockReader, READ_BLOCKS};
use crate::store::Inner;
use crate::{Complete, ContentHasher, FinishError, ReadError, Store};

/// Bytes that wait in memory for the hashing threads at most, in all.
pub(crate) const RECENT_BYTES: u64 = 16 << 20;
/// Chunks this far ahead of the digest are not kept: they would wait too long.
const RECENT_AHEAD: u32 = 8;

/// How far a blob's digest has come.
#[derive(Debug)]
pub(crate) struct Progress {
    hasher: ContentHasher,
    /// The chunk that comes next.
    next: u32,
    /// [`State::forgets`](crate::blob::State) when it began: a chunk forgotten since may have been hashed.
    forgets: u64,
}

impl Progress {
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        Self { hasher: ContentHasher::new(algorithm), next: 0, forgets: 0 }
    }
}

/// Blobs whose digest can go on, each at most once.
#[derive(Debug, Default)]
pub(crate) struct HashQueue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    blobs: VecDeque<Arc<Blob>>,
    stop: bool,
}

impl HashQueue {
    fn push(&self, blob: Arc<Blob>) {
        lock(&self.waiting).blobs.push_back(blob);
        self.changed.notify_one();
    }

    fn pop(&self) -> Option<Arc<Blob>> {
        let mut waiting = lock(&self.waiting);
        loop {
            if waiting.stop {
                return None;
            }
            if let Some(blob) = waiting.blobs.pop_front() {
                return Some(blob);
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn stop(&self) {
        lock(&self.waiting).stop = true;
        self.changed.notify_all();
    }
}

impl Inner {
    /// Queues the blob where its digest can go on.
    pub(crate) fn hash_later(&self, blob: &Arc<Blob>) {
        let mut state = lock(&blob.state);
        if !state.queued && state.can_hash() {
            state.queued = true;
            drop(state);
            self.queue.push(blob.clone());
        }
    }

    pub(crate) fn hash_until_stopped(&self) {
        while let Some(blob) = self.queue.pop() {
            let step = match blob.hash.try_lock() {
                Ok(mut progress) => Some(self.hash_step(&blob, &mut progress)),
                Err(TryLockError::Poisoned(poisoned)) => {
                    Some(self.hash_step(&blob, &mut poisoned.into_inner()))
                }
                // It is being finished, which does the rest.
                Err(TryLockError::WouldBlock) => None,
            };
            lock(&blob.state).queued = false;
            match step {
                // Even where the next chunk was not here a moment ago: it may have come since.
                Some(Ok(_)) => self.hash_later(&blob),
                Some(Err(error)) => tracing::warn!(blob = %blob.name(), %error, "cannot hash on"),
                None => {}
            }
        }
    }

    /// Takes the bytes of a chunk that the digest will reach soon, where the budget allows.
    pub(crate) fn keep_for_hashing(&self, blob: &Blob, index: ChunkIndex, bytes: Bytes) -> Option<Recent> {
        let ahead = index.0.checked_sub(lock(&blob.state).hashed)?;
        let len = bytes.len() as u64;
        let take = |left: u64| left.checked_sub(len);
        let fits = ahead < RECENT_AHEAD
            && self.recent_budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok();
        fits.then(|| Recent { bytes, budget: self.recent_budget.clone() })
    }

    /// Hashes one chunk; false where the next one is not here.
    fn hash_step(&self, blob: &Arc<Blob>, progress: &mut Progress) -> Result<bool, ReadError> {
        let recent = {
            let mut state = lock(&blob.state);
            if state.forgets != progress.forgets {
                *progress = Progress::new(blob.swarm.digest.algorithm());
                progress.forgets = state.forgets;
                state.hashed = 0;
            }
            if state.removed || state.complete || !state.held.contains(ChunkIndex(progress.next)) {
                return Ok(false);
            }
            state.recent = state.recent.split_off(&progress.next);
            state.recent.remove(&progress.next)
        };
        let hashed = match recent {
            Some(recent) => {
                progress.hasher.update(&recent.bytes);
                Ok(())
            }
            None => self.hash_from_file(blob, progress),
        };
        match hashed {
            Ok(()) => progress.next += 1,
            // Part of the chunk may be in the digest.
            Err(_) => *progress = Progress::new(blob.swarm.digest.algorithm()),
        }
        lock(&blob.state).hashed = progress.next;
        hashed.map(|()| true)
    }

    fn hash_from_file(&self, blob: &Arc<Blob>, progress: &mut Progress) -> Result<(), ReadError> {
        let index = ChunkIndex(progress.next);
        let _open = self.reading_back.read().unwrap_or_else(PoisonError::into_inner);
        let mut reader = BlockReader::open(self, blob.clone())?;
        let blocks = blob.layout.len_of(index).div_ceil(BLOCK_SIZE);
        for first in (0..usize::try_from(blocks).unwrap_or(usize::MAX)).step_by(READ_BLOCKS) {
            progress.hasher.update(reader.read(self, index, first, READ_BLOCKS)?.get());
        }
        Ok(())
    }

    /// Makes a whole blob whose digest matched complete; false where chunks were forgotten meanwhile. The digest
    /// decides, not the disk: whoever waits for the blob does not wait for a sync.
    fn complete(&self, blob: &Arc<Blob>, forgets: u64, attestation: Vec<u8>) -> bool {
        let mut table = lock(&self.table);
        if table.complete.contains_key(&blob.swarm.digest) {
            return true;
        }
        let mut state = lock(&blob.state);
        if state.removed || state.forgets != forgets {
            return false;
        }
        state.complete = true;
        state.completing = Some(attestation.into());
        table.partial.remove(&blob.swarm);
        table.complete.insert(blob.swarm.digest, blob.clone());
        table.dirty.insert(blob.id);
        drop((state, table));
        self.flush_later(ROWS_WITHIN);
        true
    }
}

impl Store {
    /// Completes a blob: hashes what is left, and where the digest matches makes it complete, durable within about a
    /// second or after [`Self::flush`]. Until then a crash leaves it partial.
    /// `attest` gets the blob's map and returns what backs it from now on; see [`Store::attestation`].
    /// Where the digest does not match, the blob stays partial until it is discarded.
    pub fn finish(
        &self,
        swarm: &SwarmId,
        attest: impl FnOnce(&ChunkMap) -> Vec<u8>,
    ) -> Result<Complete, FinishError> {
        let inner = &self.handle.inner;
        let usage = inner.use_partial(swarm)?;
        let blob = &usage.blob;
        let mut progress = lock(&blob.hash);
        while inner.hash_step(blob, &mut progress)? {}
        if progress.next < blob.layout.count() {
            let missing = (blob.layout.count() - lock(&blob.state).held.count()).max(1);
            return Err(FinishError::Missing { swarm: swarm.clone().into(), missing });
        }
        let got = progress.hasher.clone().finish();
        if got != swarm.digest {
            return Err(FinishError::DigestMismatch { swarm: swarm.clone().into(), got });
        }
        let attestation = attest(&inner.map(blob)?);
        if !inner.complete(blob, progress.forgets, attestation) {
            return Err(FinishError::Missing { swarm: swarm.clone().into(), missing: 1 });
        }
        if !lock(&blob.state).complete {
            // Another swarm brought the same content first; this copy is not needed.
            self.discard(swarm)?;
        }
        self.complete(&swarm.digest)
            .ok_or_else(|| FinishError::Missing { swarm: swarm.clone().into(), missing: 1 })
    }
}
