//! Proves that no chunk is leased to two at once: reads along what one tracker and its nodes say to each other.

use std::collections::{BTreeMap, BTreeSet};

use shoal_proto::message::{Held, Lease, LeaseKind, NodeMessage, TrackerMessage};
use shoal_proto::{ChunkIndex, LeaseToken, SwarmId};

use super::node::{Number, number_of};

/// The cluster, or a zone as the nodes call it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Origin,
    Zone(Box<str>),
}

/// A blob in one of its rounds.
type Place = (SwarmId, Scope);

#[derive(Debug)]
struct Granted {
    place: Place,
    holder: Number,
}

/// The leases of one tracker that are in force.
#[derive(Debug, Default)]
pub(super) struct LeaseWatch {
    epoch: u64,
    chunks: BTreeMap<Place, BTreeMap<u32, u64>>,
    granted: BTreeMap<(u64, Number), Granted>,
    /// Whose word counts in a later round of a blob; in the first everybody's does.
    readers: BTreeMap<SwarmId, BTreeSet<Number>>,
}

impl LeaseWatch {
    /// Of the tracker of this epoch.
    pub(super) fn of(epoch: u64) -> Self {
        Self { epoch, ..Self::default() }
    }

    /// The tracker says something; tells of a chunk that is leased to another node already.
    pub(super) fn said(&mut self, to: Number, zone: &str, message: &TrackerMessage) -> Option<String> {
        match message {
            TrackerMessage::Lease(lease) => return self.grant(to, zone, lease),
            TrackerMessage::Revoke { token, .. } => self.end(*token, to),
            TrackerMessage::Round { swarm, readers } => {
                self.end_of(to, |other| is_before(other, swarm));
                self.readers.insert(swarm.clone(), readers.iter().map(number_of).collect());
            }
            _ => {}
        }
        None
    }

    fn grant(&mut self, holder: Number, zone: &str, lease: &Lease) -> Option<String> {
        let scope = match lease.kind {
            LeaseKind::Origin => Scope::Origin,
            LeaseKind::Zone(_) => Scope::Zone(zone.into()),
        };
        // Who was not told that an earlier round is over still reads for it.
        let before = (0..lease.swarm.round).map(|round| SwarmId { round, ..lease.swarm.clone() });
        let before: Vec<_> =
            before.filter_map(|swarm| self.chunks.get(&(swarm, scope.clone()))).flatten().collect();
        let in_force = |chunk: &u32| before.iter().any(|(leased, _)| *leased == chunk);
        let mut twice = lease.chunks.clone().find(in_force);
        let place = (lease.swarm.clone(), scope);
        let leased = self.chunks.entry(place.clone()).or_default();
        for chunk in lease.chunks.clone() {
            if leased.insert(chunk, lease.token.counter).is_some() {
                twice = Some(chunk);
            }
        }
        let told = twice
            .map(|chunk| format!("chunk {chunk} was leased to node {holder} and to another ({:?})", place.1));
        self.granted.insert((lease.token.counter, holder), Granted { place, holder });
        told
    }

    fn end(&mut self, token: LeaseToken, holder: Number) {
        // Another tracker counted from the beginning as well.
        if token.epoch == self.epoch {
            self.end_lease((token.counter, holder));
        }
    }

    fn end_lease(&mut self, key: (u64, Number)) {
        let Some(granted) = self.granted.remove(&key) else { return };
        if let Some(leased) = self.chunks.get_mut(&granted.place) {
            leased.retain(|_, of| *of != key.0);
        }
    }

    fn end_of(&mut self, node: Number, which: impl Fn(&SwarmId) -> bool) {
        let of_node = |granted: &&Granted| granted.holder == node && which(&granted.place.0);
        let ended: Vec<(u64, Number)> =
            self.granted.iter().filter(|(_, granted)| of_node(granted)).map(|(key, _)| *key).collect();
        ended.into_iter().for_each(|key| self.end_lease(key));
    }

    /// A node is gone.
    pub(super) fn lost(&mut self, node: Number) {
        self.end_of(node, |_| true);
    }

    /// The tracker hears something.
    pub(super) fn heard(&mut self, from: Number, zone: &str, message: &NodeMessage) {
        match message {
            NodeMessage::Return { token, .. } => self.end(*token, from),
            NodeMessage::Leave(swarms) => self.end_of(from, |swarm| swarms.contains(swarm)),
            NodeMessage::Progress { swarm, entries, .. } => {
                self.arrived(swarm, zone, from, |chunk| {
                    entries.iter().any(|signed| signed.entry.index.0 == chunk)
                });
            }
            NodeMessage::Join(memberships) => {
                for membership in memberships {
                    if let Held::Some(held) = &membership.held
                        && !held.is_empty()
                    {
                        self.arrived(&membership.swarm, zone, from, |chunk| held.contains(ChunkIndex(chunk)));
                    }
                }
            }
            _ => {}
        }
    }

    /// Nobody need bring these chunks any more: into this node's zone, and where its word counts, into the cluster.
    fn arrived(&mut self, swarm: &SwarmId, zone: &str, from: Number, has: impl Fn(u32) -> bool) {
        let counts =
            swarm.round == 0 || self.readers.get(swarm).is_some_and(|readers| readers.contains(&from));
        let cluster = counts.then_some(Scope::Origin);
        for scope in cluster.into_iter().chain([Scope::Zone(zone.into())]) {
            if let Some(leased) = self.chunks.get_mut(&(swarm.clone(), scope)) {
                leased.retain(|chunk, _| !has(*chunk));
            }
        }
    }
}

/// Whether it is an earlier round of the same blob.
fn is_before(swarm: &SwarmId, other: &SwarmId) -> bool {
    swarm.round < other.round && *swarm == SwarmId { round: swarm.round, ..other.clone() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shoal_proto::message::LeaseFailure;
    use shoal_proto::{ChunkSet, Digest, NodeId};

    use super::*;

    fn swarm(blob: u8, round: u32) -> SwarmId {
        let origin = "registry.test".parse().unwrap();
        SwarmId { digest: Digest::sha256([blob; 32]), size: 16 << 20, origin, round }
    }

    fn token(counter: u64) -> LeaseToken {
        LeaseToken { epoch: 1, counter }
    }

    /// The tracker leases chunks 0 to 3 of a blob; what the watch says to it.
    fn lease(watch: &mut LeaseWatch, to: Number, counter: u64, swarm: SwarmId) -> Option<String> {
        let (kind, lasts) = (LeaseKind::Origin, Duration::from_secs(1));
        let lease = Lease { swarm, token: token(counter), chunks: 0..4, kind, lasts };
        watch.said(to, "", &TrackerMessage::Lease(lease))
    }

    fn begin_round(watch: &mut LeaseWatch, to: Number, swarm: SwarmId) {
        assert_eq!(watch.said(to, "", &TrackerMessage::Round { swarm, readers: Vec::new() }), None);
    }

    fn join(watch: &mut LeaseWatch, from: Number, swarm: SwarmId) {
        let held = Held::Some(ChunkSet::full(16));
        let membership =
            shoal_proto::message::Membership { swarm, held, wants: true, may_lease: true, shareable: false };
        watch.heard(from, "", &NodeMessage::Join(vec![membership]));
    }

    #[test]
    fn a_chunk_that_is_leased_to_two_is_told() {
        let mut watch = LeaseWatch::of(1);
        assert_eq!(lease(&mut watch, 1, 1, swarm(1, 0)), None);
        assert_eq!(lease(&mut watch, 2, 2, swarm(2, 0)), None, "another blob");
        let told = lease(&mut watch, 2, 3, swarm(1, 0)).unwrap();
        assert!(told.contains("was leased to node 2"), "{told}");
    }

    #[test]
    fn a_lease_that_ended_may_be_given_again() {
        type End = fn(&mut LeaseWatch);
        let ends: [End; 4] = [
            |watch| {
                assert_eq!(
                    watch.said(1, "", &TrackerMessage::Revoke { swarm: swarm(1, 0), token: token(1) }),
                    None
                )
            },
            |watch| {
                let why = LeaseFailure::Unreachable;
                watch.heard(1, "", &NodeMessage::Return { swarm: swarm(1, 0), token: token(1), why });
            },
            |watch| watch.heard(1, "", &NodeMessage::Leave(vec![swarm(1, 0)])),
            |watch| watch.lost(1),
        ];
        for end in ends {
            let mut watch = LeaseWatch::of(1);
            assert_eq!(lease(&mut watch, 1, 1, swarm(1, 0)), None);
            end(&mut watch);
            assert_eq!(lease(&mut watch, 2, 2, swarm(1, 0)), None);
        }
    }

    #[test]
    fn a_round_ends_only_what_was_leased_in_earlier_rounds_of_its_blob() {
        let mut watch = LeaseWatch::of(1);
        assert_eq!(lease(&mut watch, 1, 1, swarm(1, 0)), None);
        assert_eq!(lease(&mut watch, 1, 2, swarm(2, 0)), None);
        begin_round(&mut watch, 1, swarm(1, 1));
        assert!(lease(&mut watch, 2, 3, swarm(2, 0)).is_some(), "of another blob");
        assert_eq!(lease(&mut watch, 2, 4, swarm(1, 1)), None);
        // Said again when another node reads.
        begin_round(&mut watch, 2, swarm(1, 1));
        assert!(lease(&mut watch, 1, 5, swarm(1, 1)).is_some(), "of the same round");
    }

    #[test]
    fn a_lease_of_an_earlier_round_is_in_force_until_its_holder_knows_of_the_new_one() {
        let mut watch = LeaseWatch::of(1);
        assert_eq!(lease(&mut watch, 1, 1, swarm(1, 0)), None);
        begin_round(&mut watch, 2, swarm(1, 1));
        assert!(lease(&mut watch, 2, 2, swarm(1, 1)).is_some());
    }

    #[test]
    fn in_a_later_round_only_a_readers_word_ends_a_lease() {
        for (reader, ended) in [(1, true), (2, false)] {
            let mut watch = LeaseWatch::of(1);
            let mut name = [0; 32];
            name[31] = reader;
            let (swarm, readers) = (swarm(1, 1), vec![NodeId::from_bytes(name)]);
            watch.said(1, "", &TrackerMessage::Round { swarm: swarm.clone(), readers });
            assert_eq!(lease(&mut watch, 3, 1, swarm.clone()), None);
            join(&mut watch, 1, swarm.clone());
            assert_eq!(lease(&mut watch, 1, 2, swarm).is_none(), ended);
        }
    }

    #[test]
    fn what_a_node_says_of_another_trackers_lease_ends_none_of_this_one() {
        let mut watch = LeaseWatch::of(1);
        assert_eq!(lease(&mut watch, 1, 1, swarm(1, 0)), None);
        let token = LeaseToken { epoch: 0, counter: 1 };
        let why = LeaseFailure::Unreachable;
        watch.heard(1, "", &NodeMessage::Return { swarm: swarm(1, 0), token, why });
        assert!(lease(&mut watch, 2, 2, swarm(1, 0)).is_some());
    }
}
