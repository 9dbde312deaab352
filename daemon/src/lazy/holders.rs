//! Which members may have a layer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_proto::message::{PeerInfo, Place};
use shoal_proto::{Repository, SwarmId};
use shoal_transport::Bulk;

use crate::swarm::{SwarmHandle, TrackerQueries};

/// How long an answer of the tracker is used: as long as a container takes to start.
const FRESH: Duration = Duration::from_secs(30);
/// How long it counts that the tracker named nobody, or did not answer: readers of a layer come in dozens, and its
/// answer may take as long as that.
const FRESH_NOBODY: Duration = Duration::from_secs(2);
/// Layers that are remembered: those of some hundred images.
const MOST: usize = 4096;
/// Members that are asked where the tracker names none: any of them may have it.
const GUESSES: usize = 16;

/// What the tracker answered, and until when that counts. Who holds this while the tracker is asked asks for all.
type Answer = Arc<tokio::sync::Mutex<Option<(Instant, Vec<PeerInfo>)>>>;

/// Finds holders. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Holders {
    tracker: TrackerQueries,
    swarm: SwarmHandle,
    bulk: Arc<dyn Bulk>,
    known: Arc<Mutex<HashMap<SwarmId, Answer>>>,
}

impl std::fmt::Debug for Holders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Holders").finish_non_exhaustive()
    }
}

impl Holders {
    pub(crate) fn new(tracker: TrackerQueries, swarm: SwarmHandle, bulk: Arc<dyn Bulk>) -> Self {
        Self { tracker, swarm, bulk, known: Arc::default() }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<SwarmId, Answer>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Members that may have the layer: those that the tracker names, or, where it names none, those that are linked.
    pub(super) async fn of(&self, layer: &SwarmId, repository: &Repository) -> Vec<PeerInfo> {
        let mut named = self.named(layer, repository).await;
        if named.is_empty() {
            let linked = self.bulk.links().into_iter().take(GUESSES);
            named.extend(linked.map(|link| reached(link.node, link.address)));
        }
        named
    }

    async fn named(&self, layer: &SwarmId, repository: &Repository) -> Vec<PeerInfo> {
        let answer = {
            let mut known = self.known();
            if known.len() >= MOST && !known.contains_key(layer) {
                known.clear();
            }
            known.entry(layer.clone()).or_default().clone()
        };
        let mut answer = answer.lock().await;
        if let Some((until, named)) = &*answer
            && Instant::now() < *until
        {
            return named.clone();
        }
        let named = self.tracker.holders(layer, repository, &self.swarm).await;
        let fresh = if named.is_empty() { FRESH_NOBODY } else { FRESH };
        *answer = Some((Instant::now() + fresh, named.clone()));
        named
    }

    /// None of them delivered: next time the tracker is asked again.
    pub(super) fn forget(&self, layer: &SwarmId) {
        self.known().remove(layer);
    }
}

fn reached(node: shoal_proto::NodeId, address: std::net::SocketAddr) -> PeerInfo {
    PeerInfo { node, addresses: vec![address], place: Place::default() }
}
