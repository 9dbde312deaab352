//! The tracker and its sessions; what it leases is watched.

use super::*;

/// A lease in force.
pub(super) struct Granted {
    pub(super) lease: Lease,
    pub(super) holder: usize,
    /// Chunks still to come.
    pub(super) left: BTreeSet<u32>,
}

impl Granted {
    pub(super) fn is_origin(&self) -> bool {
        self.lease.kind == LeaseKind::Origin
    }
}

impl World {
    pub fn start_tracker(&mut self) {
        self.generation += 1;
        let seed = self.rng.u64(..);
        self.tracker = Some(TrackerMachine::new(config(), self.generation, seed));
        self.tracker_tick = None;
        self.granted.clear();
        for node in 0..self.nodes.len() {
            self.connect_tracker(node);
        }
    }

    pub(super) fn connect_tracker(&mut self, node: usize) {
        if self.nodes[node].alive {
            let info = self.nodes[node].info.clone();
            self.later(Duration::ZERO, Ev::Peer(node, Box::new(PeerEvent::TrackerUp)));
            self.later(LATENCY, Ev::Tracker(self.generation, Box::new(TrackerEvent::Connected(info))));
        }
    }

    pub fn kill_tracker(&mut self) {
        self.tracker = None;
        for node in 0..self.nodes.len() {
            self.later(LATENCY, Ev::Peer(node, Box::new(PeerEvent::TrackerDown)));
        }
    }

    pub(super) fn feed_tracker(&mut self, event: TrackerEvent) {
        if self.tracker.is_none() {
            return;
        }
        self.tracker_messages += 1;
        let message = match &event {
            TrackerEvent::Message { from, message } => Some((self.ids[from], message.clone())),
            TrackerEvent::Disconnected(node) => {
                let node = self.ids[node];
                self.granted.retain(|_, granted| granted.holder != node);
                None
            }
            _ => None,
        };
        if let Some((_, NodeMessage::Return { token, .. })) = &message {
            self.granted.remove(token);
        }
        if let Some((node, NodeMessage::Leave(swarms))) = &message {
            self.granted
                .retain(|_, granted| granted.holder != *node || !swarms.contains(&granted.lease.swarm));
        }
        if let Some((node, NodeMessage::Progress { entries, swarm, .. })) = &message {
            for signed in entries {
                self.done(*node, swarm, signed.entry.index.0);
            }
        }
        if let Some((node, NodeMessage::Join(memberships))) = &message {
            for membership in memberships {
                if let Held::Some(held) = &membership.held {
                    held.iter().for_each(|index| self.done(*node, &membership.swarm, index.0));
                }
            }
        }
        let Some(tracker) = &mut self.tracker else { return };
        tracker.handle(self.now, event);
        let mut sent = Vec::new();
        while let Some(TrackerAction::Send { to, message }) = tracker.poll_action() {
            sent.push((self.ids[&to], message));
        }
        let next = tracker.next_timeout();
        for (to, message) in sent {
            self.watch_leases(to, &message);
            self.later(LATENCY, Ev::ToNode(self.generation, to, Box::new(message)));
        }
        if let Some(next) = next
            && self.tracker_tick != Some(next)
        {
            self.tracker_tick = Some(next);
            self.at(next.max(self.now), Ev::TrackerTick(self.generation));
        }
    }

    /// A chunk came: it is in no lease any more.
    pub(super) fn done(&mut self, node: usize, swarm: &SwarmId, chunk: u32) {
        let zone = self.nodes[node].info.place.zone.clone();
        let nodes = &self.nodes;
        self.granted.retain(|_, granted| {
            let scope = granted.is_origin() || nodes[granted.holder].info.place.zone == zone;
            if scope && granted.lease.swarm == *swarm {
                granted.left.remove(&chunk);
            }
            !granted.left.is_empty()
        });
    }

    pub(super) fn watch_leases(&mut self, to: usize, message: &TrackerMessage) {
        match message {
            TrackerMessage::Lease(lease) => {
                let zone = &self.nodes[to].info.place.zone;
                let left: BTreeSet<u32> = lease.chunks.clone().collect();
                let granted = Granted { lease: lease.clone(), holder: to, left };
                let twice = self.granted.values().any(|other| {
                    let same_zone = self.nodes[other.holder].info.place.zone == *zone;
                    granted.is_origin() == other.is_origin()
                        && (granted.is_origin() || same_zone)
                        && other.lease.swarm == lease.swarm
                        && !other.left.is_disjoint(&granted.left)
                });
                self.double_grants += u32::from(twice);
                self.granted.insert(lease.token, granted);
            }
            TrackerMessage::Revoke { token, .. } => {
                self.granted.remove(token);
            }
            TrackerMessage::Round { .. } => {
                self.granted.retain(|_, granted| granted.holder != to);
            }
            _ => {}
        }
    }
}
