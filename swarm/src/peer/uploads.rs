//! What this node sends to others: slots, and only what is proven.

use shoal_proto::NodeId;
use shoal_proto::message::ChunkRequest;

use super::{Admission, PeerConfig, PeerMachine};
use crate::Time;

/// Slots that only nodes of other zones get: one that asks across zones holds a lease for its whole zone, which must
/// not wait behind this node's neighbours.
const FAR: usize = 2;

/// Slots of a node on a slow line that has no more chunks than this, of all blobs. With them the first byte of a blob
/// reached the last of 16 nodes at 50 Mbit/s after 1.4 s, with four after 1.6 s. Counted for each blob by itself, those of
/// 40 layers spread more slowly, by 2 %.
const FEW: usize = 2;

impl PeerConfig {
    /// Chunks sent at once, at most: to neighbours on a fast link, and to nodes of other zones.
    pub fn most_uploads(&self) -> usize {
        self.uploads * self.when_fast.max(1) + FAR
    }
}

/// Uploads under way: to whom.
#[derive(Debug, Default)]
pub(super) struct Uploads(Vec<NodeId>);

impl Uploads {
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}

impl PeerMachine {
    /// Whether this peer gets this chunk now. After `Serve` the driver calls [`Self::upload_ended`], however it ends.
    pub fn admit(&mut self, now: Time, from: NodeId, request: &ChunkRequest) -> Admission {
        self.now = self.now.max(now);
        if self.shunned.contains(&from) {
            return Admission::NotHeld;
        }
        let chunk = request.index.0;
        let exact = self.swarm(&request.swarm).and_then(|swarm| swarm.held_value(chunk));
        // A map that this node verified is right for these bytes wherever they come from; but not everybody who knows the
        // digest may have them.
        let verified = || {
            let siblings = self.by_blob.get(&(request.swarm.digest, request.swarm.size))?;
            let swarms = siblings.iter().filter_map(|key| self.swarms.get(key));
            swarms.filter(|swarm| swarm.serves(&request.swarm)).find_map(|swarm| swarm.held_value(chunk))
        };
        let Some(want) = exact.or_else(verified) else { return Admission::NotHeld };
        let far = if self.is_near(&from) { 0 } else { FAR };
        if self.uploads.count() >= self.upload_slots() + far {
            return Admission::Busy;
        }
        self.uploads.0.push(from);
        Admission::Serve { want }
    }

    /// Who has only a few chunks on a slow line is asked by all for the same ones; they spread faster to two at once, who
    /// pass them on, than to four.
    fn upload_slots(&self) -> usize {
        let slots = self.slots(self.config.uploads);
        if !self.is_slow() {
            return slots;
        }
        let mut held = 0;
        let enough = self.swarms.values().any(|swarm| {
            held += swarm.held.count() as usize;
            held >= slots
        });
        if enough { slots } else { held.max(FEW) }
    }

    /// An upload to this peer is over; its slot is free.
    pub fn upload_ended(&mut self, from: NodeId) {
        if let Some(place) = self.uploads.0.iter().position(|to| *to == from) {
            self.uploads.0.remove(place);
        }
    }
}
