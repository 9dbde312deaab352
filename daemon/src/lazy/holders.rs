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
/// Layers that are remembered: those of some hundred images.
const MOST: usize = 4096;
/// Members that are asked where the tracker names none: any of them may have it.
const GUESSES: usize = 16;

/// When the tracker answered, and what.
type Answers = HashMap<SwarmId, (Instant, Vec<PeerInfo>)>;

/// Finds holders. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Holders {
    tracker: TrackerQueries,
    swarm: SwarmHandle,
    bulk: Arc<dyn Bulk>,
    known: Arc<Mutex<Answers>>,
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

    fn known(&self) -> MutexGuard<'_, Answers> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Members that may have the layer: those that the tracker names, or, where it names none, those that are linked.
    pub(super) async fn of(&self, layer: &SwarmId, repository: &Repository) -> Vec<PeerInfo> {
        let fresh = self.known().get(layer).filter(|(at, _)| at.elapsed() < FRESH).cloned();
        if let Some((_, holders)) = fresh {
            return holders;
        }
        let named = self.tracker.holders(layer, repository, &self.swarm).await;
        if named.is_empty() {
            let linked = self.bulk.links().into_iter().take(GUESSES);
            return linked.map(|link| reached(link.node, link.address)).collect();
        }
        let mut known = self.known();
        if known.len() >= MOST {
            known.clear();
        }
        known.insert(layer.clone(), (Instant::now(), named.clone()));
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
