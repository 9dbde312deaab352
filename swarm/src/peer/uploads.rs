//! What this node sends to others: slots, and only what is proven.

use std::collections::BTreeMap;

use shoal_proto::NodeId;
use shoal_proto::message::ChunkRequest;

use super::{Admission, PeerMachine};
use crate::Time;

/// Uploads under way, by who receives them.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    by_node: BTreeMap<NodeId, usize>,
    count: usize,
}

impl Uploads {
    pub(super) fn count(&self) -> usize {
        self.count
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
        if self.uploads.count >= self.slots(self.config.uploads) {
            return Admission::Busy;
        }
        *self.uploads.by_node.entry(from).or_default() += 1;
        self.uploads.count += 1;
        Admission::Serve { want }
    }

    /// An upload to this peer is over; its slot is free.
    pub fn upload_ended(&mut self, from: NodeId) {
        let Some(uploads) = self.uploads.by_node.get_mut(&from) else { return };
        *uploads -= 1;
        if *uploads == 0 {
            self.uploads.by_node.remove(&from);
        }
        self.uploads.count -= 1;
    }
}
