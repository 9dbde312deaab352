//! What this node sends to others: slots, and only what is proven.

use std::collections::VecDeque;

use shoal_proto::NodeId;
use shoal_proto::message::{ChunkRequest, PeerMessage};

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
        self.uploads_when_slow.max(self.uploads * self.when_fast.max(1)) + FAR
    }
}

/// Nodes that were told BUSY of which is kept that they were; others ask again by themselves.
const TURNED_AWAY: usize = 64;

/// Nodes to which a free slot is offered: not every one has use for it by then. A crowd of 100 at 10 Gbit/s took 1.69
/// times the bound where nothing was said, 1.53 with one and 1.52 with two; 40 layers 1.30, 1.32 and 1.29.
const OFFERED: usize = 2;

/// Uploads under way.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    to: Vec<NodeId>,
    /// Who was told BUSY and not yet that a slot is free, the first first; and whether it stood in another zone, as far as
    /// was known when it asked last.
    turned_away: VecDeque<(NodeId, bool)>,
}

impl Uploads {
    pub(super) fn count(&self) -> usize {
        self.to.len()
    }

    fn turn_away(&mut self, node: NodeId, far: bool) {
        let room = self.turned_away.len() < TURNED_AWAY;
        match self.turned_away.iter_mut().find(|(other, _)| *other == node) {
            Some((_, known)) => *known = far,
            None if room => self.turned_away.push_back((node, far)),
            None => {}
        }
    }
}

impl PeerMachine {
    /// Whether this peer gets this chunk now. After `Serve` comes [`super::PeerEvent::UploadEnded`], however it ends.
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
        let (count, slots) = (self.uploads.count(), self.upload_slots());
        if count >= slots {
            let far = !self.is_near(&from);
            if !far || count >= slots + FAR {
                self.uploads.turn_away(from, far);
                return Admission::Busy;
            }
        }
        self.uploads.turned_away.retain(|(node, _)| *node != from);
        self.uploads.to.push(from);
        Admission::Serve { want }
    }

    /// Who has only a few chunks on a slow line is asked by all for the same ones; they spread faster to two at once, who
    /// pass them on, than to as many as there are slots.
    fn upload_slots(&self) -> usize {
        if !self.is_slow() {
            return self.when_fast(self.config.uploads);
        }
        let slots = self.config.uploads_when_slow;
        let mut held = 0;
        let enough = self.swarms.values().any(|swarm| {
            held += swarm.held.count() as usize;
            held >= slots
        });
        if enough { slots } else { held.max(FEW) }
    }

    /// An upload is over. Its slot is offered to those that were told BUSY first, of other zones before others.
    pub(super) fn upload_ended(&mut self, to: NodeId) {
        if let Some(place) = self.uploads.to.iter().position(|other| *other == to) {
            self.uploads.to.swap_remove(place);
        }
        let (count, slots) = (self.uploads.count(), self.upload_slots());
        for _ in 0..OFFERED {
            let far = self.uploads.turned_away.iter().position(|(_, far)| *far);
            let place = far.filter(|_| count < slots + FAR).or((count < slots).then_some(0));
            let Some((node, _)) = place.and_then(|place| self.uploads.turned_away.remove(place)) else {
                return;
            };
            if self.is_up(&node) {
                self.say(node, PeerMessage::Free);
            }
        }
    }
}
