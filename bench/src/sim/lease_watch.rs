//! Proves that no chunk is leased to two at once: reads along what tracker and nodes say to each other.

use std::collections::BTreeMap;

use shoal_proto::message::{Held, Lease, LeaseKind, NodeMessage, TrackerMessage};
use shoal_proto::{ChunkIndex, SwarmId};

use super::node::Number;

/// The cluster, or a zone as the nodes call it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Origin,
    Zone(Box<str>),
}

type Place = (SwarmId, Scope);

#[derive(Debug)]
struct Granted {
    place: Place,
    holder: Number,
}

/// The leases of one tracker that are in force.
#[derive(Debug, Default)]
pub(super) struct LeaseWatch {
    chunks: BTreeMap<Place, BTreeMap<u32, u64>>,
    granted: BTreeMap<(u64, Number), Granted>,
}

impl LeaseWatch {
    /// The tracker says something; tells of a chunk that is leased to another node already.
    pub(super) fn said(&mut self, to: Number, zone: &str, message: &TrackerMessage) -> Option<String> {
        match message {
            TrackerMessage::Lease(lease) => return self.grant(to, zone, lease),
            TrackerMessage::Revoke { token, .. } => self.end(token.counter, to),
            TrackerMessage::Round { .. } => self.end_of(to, |_| true),
            _ => {}
        }
        None
    }

    fn grant(&mut self, holder: Number, zone: &str, lease: &Lease) -> Option<String> {
        let scope = match lease.kind {
            LeaseKind::Origin => Scope::Origin,
            LeaseKind::Zone(_) => Scope::Zone(zone.into()),
        };
        let place = (lease.swarm.clone(), scope);
        let leased = self.chunks.entry(place.clone()).or_default();
        let mut twice = None;
        for chunk in lease.chunks.clone() {
            if leased.insert(chunk, lease.token.counter).is_some() {
                twice =
                    Some(format!("chunk {chunk} was leased to node {holder} and to another ({:?})", place.1));
            }
        }
        self.granted.insert((lease.token.counter, holder), Granted { place, holder });
        twice
    }

    fn end(&mut self, counter: u64, holder: Number) {
        let Some(granted) = self.granted.remove(&(counter, holder)) else { return };
        if let Some(leased) = self.chunks.get_mut(&granted.place) {
            leased.retain(|_, of| *of != counter);
        }
    }

    fn end_of(&mut self, node: Number, which: impl Fn(&SwarmId) -> bool) {
        let of_node = |granted: &&Granted| granted.holder == node && which(&granted.place.0);
        let ended: Vec<(u64, Number)> =
            self.granted.iter().filter(|(_, granted)| of_node(granted)).map(|(key, _)| *key).collect();
        ended.into_iter().for_each(|(counter, holder)| self.end(counter, holder));
    }

    /// A node is gone.
    pub(super) fn lost(&mut self, node: Number) {
        self.end_of(node, |_| true);
    }

    /// The tracker hears something.
    pub(super) fn heard(&mut self, from: Number, zone: &str, message: &NodeMessage) {
        match message {
            NodeMessage::Return { token, .. } => self.end(token.counter, from),
            NodeMessage::Leave(swarms) => self.end_of(from, |swarm| swarms.contains(swarm)),
            NodeMessage::Progress { swarm, entries, .. } => {
                self.arrived(swarm, zone, |chunk| entries.iter().any(|signed| signed.entry.index.0 == chunk));
            }
            NodeMessage::Join(memberships) => {
                for membership in memberships {
                    if let Held::Some(held) = &membership.held
                        && !held.is_empty()
                    {
                        self.arrived(&membership.swarm, zone, |chunk| held.contains(ChunkIndex(chunk)));
                    }
                }
            }
            _ => {}
        }
    }

    fn arrived(&mut self, swarm: &SwarmId, zone: &str, has: impl Fn(u32) -> bool) {
        for scope in [Scope::Origin, Scope::Zone(zone.into())] {
            if let Some(leased) = self.chunks.get_mut(&(swarm.clone(), scope)) {
                leased.retain(|chunk, _| !has(*chunk));
            }
        }
    }
}
