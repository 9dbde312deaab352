//! Carries out what the peer machine decided.

use std::sync::Arc;

use shoal_proto::message::{ChunkRequest, Lease, LeaseFailure};
use shoal_proto::{ChunkIndex, ChunkValue, NodeId, SignedAttestation, SwarmId};
use shoal_registry_proxy::Source;
use shoal_store::{Store, StoreError};
use shoal_swarm::peer::{FailReason, FetchOutcome, PeerAction, PeerEvent};
use tracing::{debug, info, trace, warn};

use super::Input;
use super::driver::Driver;
use super::fetch::{Fetch, fetch};
use super::finish::finish;
use super::inbox::{Joining, OriginFailure, Restored};
use super::origin_read::origin_read;
use crate::blobs::{ActiveBlob, Failure, Phase};

impl Driver {
    pub(super) fn act(&mut self, action: PeerAction) {
        trace!(?action, "swarm action");
        match action {
            PeerAction::ToTracker(message) => self.tracker.send(message),
            PeerAction::Connect(peer) => {
                let parts = self.parts.clone();
                tokio::spawn(async move {
                    if let Err(error) = parts.bulk.connect(peer.clone()).await {
                        parts.metrics.peer_calls_failed.inc();
                        parts.unreachable.failed(&peer, &error);
                        parts.handle.send(Input::ConnectFailed(peer.node)).await;
                    }
                });
            }
            PeerAction::Disconnect(node) => self.parts.bulk.disconnect(node),
            PeerAction::ToPeer { to, message } => {
                if let Err(error) = self.parts.bulk.send(to, &message) {
                    // The link's end is an event of its own.
                    debug!(peer = %to, %error, "message not sent");
                }
            }
            PeerAction::Fetch { request, from, swarm, index, want } => {
                self.start_fetch(request, from, swarm, index, want);
            }
            PeerAction::Cancel { request } => {
                if let Some(task) = self.fetches.remove(&request) {
                    task.abort();
                }
            }
            PeerAction::FetchOrigin(lease) => self.start_origin_read(lease),
            PeerAction::CancelOrigin { token, .. } => {
                if let Some(task) = self.origin_reads.remove(&token) {
                    task.abort();
                }
            }
            PeerAction::Whole { swarm } => self.whole(swarm),
            PeerAction::NewRound { old, new } => self.new_round(&old, new),
            PeerAction::Failed { swarm, why } => {
                // Its digest did not match: before anybody begins anew, what is here must be gone.
                tokio::task::block_in_place(|| discard(&self.parts.store, &swarm));
                self.fail(&swarm, failure(why));
            }
            PeerAction::Shunned(node) => {
                warn!(peer = %node, "a member lied repeatedly; it is not asked again");
            }
        }
    }
}

impl Driver {
    fn start_fetch(
        &mut self,
        request: u64,
        from: NodeId,
        swarm: SwarmId,
        index: ChunkIndex,
        want: ChunkValue,
    ) {
        let Some(blob) = self.blobs.get(&swarm) else {
            self.feed(PeerEvent::Fetched { request, outcome: FetchOutcome::Failed });
            return;
        };
        if blob.kept(index) == Some(want) {
            blob.add(index, Source::Local);
            self.feed(PeerEvent::Fetched { request, outcome: FetchOutcome::Stored });
            return;
        }
        let evidence = self.machine.evidence(&swarm, index, want).map(|signed| signed.to_bytes());
        let order = Fetch {
            request,
            from,
            layout: blob.layout,
            want,
            evidence: evidence.unwrap_or_default(),
            to: blob.write_to(),
            chunk: ChunkRequest { swarm, index },
        };
        let task = tokio::spawn(fetch(self.parts.clone(), order));
        self.fetches.insert(request, task.abort_handle());
    }

    fn start_origin_read(&mut self, lease: Lease) {
        let Some(blob) = self.blobs.get(&lease.swarm).cloned() else {
            let result = Err(LeaseFailure::Abandoned);
            self.feed(PeerEvent::OriginEnded { swarm: lease.swarm, token: lease.token, result });
            return;
        };
        let (token, to) = (lease.token, blob.write_to());
        let task = tokio::spawn(origin_read(self.parts.clone(), lease, blob, to));
        self.origin_reads.insert(token, task.abort_handle());
    }

    pub(super) fn origin_ended(
        &mut self,
        swarm: SwarmId,
        token: shoal_proto::LeaseToken,
        result: Result<(), OriginFailure>,
    ) {
        self.origin_reads.remove(&token);
        if let (Err(failure), Some(blob)) = (&result, self.blobs.get(&swarm)) {
            blob.set_outage(failure.reason.clone());
        }
        let result = result.map_err(|failure| failure.why);
        let refused = result == Err(LeaseFailure::Refused);
        self.feed(PeerEvent::OriginEnded { swarm: swarm.clone(), token, result });
        if refused {
            // Until somebody comes whom it lets in.
            self.access(&swarm, false);
        }
    }

    pub(super) fn access(&mut self, swarm: &SwarmId, may_lease: bool) {
        self.feed(PeerEvent::Access { swarm: swarm.clone(), may_lease });
    }

    pub(super) fn fetched(
        &mut self,
        request: u64,
        swarm: &SwarmId,
        index: ChunkIndex,
        outcome: FetchOutcome,
    ) {
        self.fetches.remove(&request);
        if outcome == FetchOutcome::Stored
            && let Some(blob) = self.blobs.get(swarm)
        {
            blob.add(index, Source::Swarm);
        }
        self.feed(PeerEvent::Fetched { request, outcome });
    }

    pub(super) fn origin_chunk(&mut self, entry: shoal_proto::SignedEntry) {
        if let Some(blob) = self.blobs.get(&entry.entry.swarm) {
            blob.add(entry.entry.index, Source::Origin);
        }
        self.feed(PeerEvent::OriginChunk { entry });
    }

    pub(super) fn join(&mut self, joining: Joining) {
        let Joining { blob, held, proof } = joining;
        let swarm = blob.swarm();
        self.blobs.insert(swarm.clone(), blob);
        self.feed(PeerEvent::Join { swarm, held, proof, wants: true, may_lease: true });
    }

    /// A blob that was complete at the start. One that lost chunks since is repaired when somebody reads it.
    pub(super) fn restore(&mut self, restored: Restored) {
        let Restored { swarm, held, proof, open } = restored;
        self.complete.entry(swarm.digest).or_default().insert(swarm.clone());
        let join = swarm.clone();
        self.feed(PeerEvent::Join { swarm: join, held, proof: Some(proof), wants: false, may_lease: false });
        if open {
            self.feed(PeerEvent::Shareable { swarm });
        }
    }

    pub(super) fn leave(&mut self, blob: &ActiveBlob) {
        let swarm = blob.swarm();
        // The same swarm may have begun anew meanwhile.
        let is_this = |known: &Arc<ActiveBlob>| std::ptr::eq(Arc::as_ptr(known), blob);
        if self.blobs.get(&swarm).is_some_and(is_this) {
            self.blobs.remove(&swarm);
            debug!(digest = %swarm.digest, "nobody wants it any more");
            blob.end(Phase::Failed(Failure::Abandoned));
            self.feed(PeerEvent::Leave { swarm });
        }
    }

    fn whole(&mut self, swarm: SwarmId) {
        let repairs = self.blobs.get(&swarm).is_some_and(|blob| blob.is_repair());
        if repairs {
            // Its digest matched before, and only the values that it had then were written.
            self.repaired(swarm);
            return;
        }
        tokio::spawn(finish(self.parts.clone(), swarm));
    }

    fn repaired(&mut self, swarm: SwarmId) {
        let Some(blob) = self.blobs.remove(&swarm) else { return };
        info!(digest = %swarm.digest, "repaired");
        blob.end(Phase::Complete);
        let read = || self.parts.store.attestation(&swarm.digest).ok().flatten();
        let stored = tokio::task::block_in_place(read);
        match stored.and_then(|bytes| SignedAttestation::from_bytes(&bytes).ok()) {
            Some(signed) => self.feed(PeerEvent::Verified(signed)),
            None => self.feed(PeerEvent::Leave { swarm }),
        }
    }

    pub(super) fn verified(&mut self, signed: SignedAttestation, open: bool) {
        let swarm = signed.attestation.swarm.clone();
        // What the store lost since the digest matched was told before anybody here knew the blob to be complete.
        let Some(known) = self.parts.store.complete(&swarm.digest) else {
            return self.fail(&swarm, Failure::Store("it was removed as soon as it was complete".into()));
        };
        let lost: Vec<ChunkIndex> = known.held.missing_from(ChunkIndex(0)).collect();
        self.complete.entry(swarm.digest).or_default().insert(swarm.clone());
        if let Some(blob) = self.blobs.remove(&swarm) {
            blob.end(Phase::Complete);
        }
        if open {
            self.feed(PeerEvent::Shareable { swarm: swarm.clone() });
        }
        self.feed(PeerEvent::Verified(signed));
        if !lost.is_empty() {
            self.feed(PeerEvent::Lost { swarm, chunks: lost });
        }
    }

    /// The bytes of the old round are worth nothing; the blob starts anew.
    fn new_round(&mut self, old: &SwarmId, new: SwarmId) {
        let Some(blob) = self.blobs.remove(old) else { return };
        warn!(digest = %new.digest, round = new.round, "starting anew with other lease holders");
        blob.restart(new.round);
        let store = &self.parts.store;
        // Rare, and no chunk of the new round may come before the store is ready for it.
        let begun = tokio::task::block_in_place(|| {
            discard(store, old);
            // Left from an earlier time that came to nothing.
            discard(store, &new);
            store.begin(&new)
        });
        self.blobs.insert(new.clone(), blob.clone());
        match begun {
            Ok(partial) => blob.keep(partial),
            Err(error) => self.fail(&new, Failure::Store(error.to_string().into())),
        }
    }

    pub(super) fn fail(&mut self, swarm: &SwarmId, failure: Failure) {
        if let Some(blob) = self.blobs.remove(swarm) {
            warn!(digest = %swarm.digest, %failure, "the blob cannot be had");
            blob.end(Phase::Failed(failure));
            self.feed(PeerEvent::Leave { swarm: swarm.clone() });
        }
    }

    pub(super) fn lost_complete(&mut self, digest: shoal_proto::Digest, chunks: Option<Vec<ChunkIndex>>) {
        let swarms = match chunks {
            Some(_) => self.complete.get(&digest).cloned(),
            None => self.complete.remove(&digest),
        };
        for swarm in swarms.into_iter().flatten() {
            match chunks.clone() {
                Some(chunks) => self.feed(PeerEvent::Lost { swarm, chunks }),
                None => self.feed(PeerEvent::Leave { swarm }),
            }
        }
    }
}

fn failure(why: FailReason) -> Failure {
    match why {
        FailReason::WrongBytes => Failure::WrongBytes,
        _ => Failure::Unavailable(why.to_string().into()),
    }
}

/// Removes a partial blob whose bytes turned out wrong. Rare, and what follows must not find it again.
fn discard(store: &Store, swarm: &SwarmId) {
    match store.discard(swarm) {
        Ok(()) | Err(StoreError::NotFound(_)) => {}
        Err(error) => warn!(%error, "cannot remove what turned out wrong"),
    }
}
