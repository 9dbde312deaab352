//! The session with the tracker: what it is told of memberships, and what it says.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use shoal_proto::message::{NodeMessage, TrackerMessage, limit};
use shoal_proto::{SignedEntry, SwarmId};

use super::evidence::ClaimRef;
use super::{Key, PeerAction, PeerMachine, Timer};
use crate::Time;

/// Longest time that reports are spread over, whatever a tracker says.
const REPORT_MAX: Duration = Duration::from_secs(60);

/// What is known of the present session.
#[derive(Debug, Default)]
pub(super) struct Session {
    up: bool,
    down_since: Time,
    /// Counts sessions, so that each swarm knows whether this one heard of it.
    number: u64,
    /// Memberships to be sent with the next message.
    joins: BTreeSet<Key>,
    /// After a Welcome: what is still to be reported, and how long to wait between messages.
    reports: VecDeque<Key>,
    pause: Duration,
    reporting: bool,
}

impl Session {
    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    /// The tracker is to be told of this swarm as it is now.
    pub(super) fn announce(&mut self, key: Key) {
        if self.up {
            self.joins.insert(key);
        }
    }
}

impl PeerMachine {
    pub(super) fn tracker_up(&mut self) {
        self.session.up = true;
        self.session.number += 1;
    }

    pub(super) fn tracker_down(&mut self) {
        let number = self.session.number;
        self.session = Session { number, down_since: self.now, ..Session::default() };
        let open = self.now + self.config.zones_open_after;
        self.wake_at(open, Timer::ZonesOpen);
    }

    /// Without a tracker nobody leases chunks into a zone; so after a while each node looks after itself.
    pub(super) fn zones_open(&self) -> bool {
        !self.session.up && self.now.since(self.session.down_since) >= self.config.zones_open_after
    }

    pub(super) fn send_joins(&mut self) {
        let joins: Vec<Key> = std::mem::take(&mut self.session.joins).into_iter().collect();
        for part in joins.chunks(limit::SWARMS) {
            self.send_join(part);
        }
    }

    fn send_join(&mut self, keys: &[Key]) {
        let mut memberships = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some(swarm) = self.swarms.get_mut(key) {
                swarm.reported = self.session.number;
                memberships.push(swarm.membership());
            }
        }
        if !memberships.is_empty() {
            self.act(PeerAction::ToTracker(NodeMessage::Join(memberships)));
        }
    }

    pub(super) fn left(&mut self, swarm: SwarmId) {
        if self.session.up {
            self.act(PeerAction::ToTracker(NodeMessage::Leave(vec![swarm])));
        }
    }

    /// A tracker that may know nothing: all is reported, what is being fetched first, spread over time.
    fn welcome(&mut self, epoch: u64, report_within: Duration) {
        self.drop_leases_but(epoch);
        let number = self.session.number;
        let unreported = self.swarms.iter().filter(|(_, swarm)| swarm.reported != number);
        let mut keys: Vec<(bool, Key)> =
            unreported.map(|(key, swarm)| (!swarm.is_fetching(), *key)).collect();
        keys.retain(|(_, key)| !self.session.joins.contains(key));
        keys.sort_unstable();
        let messages = u32::try_from(keys.len().div_ceil(limit::SWARMS)).unwrap_or(u32::MAX);
        self.session.reports = keys.into_iter().map(|(_, key)| key).collect();
        self.session.reporting = true;
        self.session.pause = report_within.min(REPORT_MAX) / messages.max(1);
        if messages == 0 {
            self.report_next();
            return;
        }
        let first = self.now + self.session.pause.mul_f64(self.rng.f64());
        self.wake_at(first, Timer::Report);
    }

    pub(super) fn report_next(&mut self) {
        if !self.session.reporting {
            return;
        }
        let count = self.session.reports.len().min(limit::SWARMS);
        let keys: Vec<Key> = self.session.reports.drain(..count).collect();
        self.send_join(&keys);
        if self.session.reports.is_empty() {
            self.session.reporting = false;
            self.act(PeerAction::ToTracker(NodeMessage::Reported));
        } else {
            let next = self.now + self.session.pause;
            self.wake_at(next, Timer::Report);
        }
    }

    pub(super) fn tracker_message(&mut self, message: TrackerMessage) {
        match message {
            TrackerMessage::Welcome { epoch, report_within } => self.welcome(epoch, report_within),
            TrackerMessage::Neighbours { swarm, peers } => {
                if let Some(&key) = self.by_id.get(&swarm) {
                    for info in peers {
                        self.add_neighbour(key, info, false);
                    }
                }
            }
            TrackerMessage::Lease(lease) => self.lease(lease),
            TrackerMessage::Revoke { swarm, token } => self.revoke(&swarm, token),
            TrackerMessage::Entries { swarm, entries } => self.relayed(&swarm, &entries),
            TrackerMessage::Round { swarm, readers } => self.round(&swarm, &readers),
            TrackerMessage::Attested(signed) => {
                let attestation = signed.attestation;
                if let Some(&key) = self.by_id.get(&attestation.swarm)
                    && let Some(swarm) = self.swarms.get_mut(&key)
                {
                    // The map itself comes from a neighbour.
                    swarm.evidence.trust_root(attestation.root);
                    self.ready.insert(key);
                }
            }
            // Answers are the driver's.
            TrackerMessage::TagFound { .. } | TrackerMessage::AnonymousFound { .. } => {}
        }
    }

    /// Entries by way of the tracker: who signed one has the chunk.
    fn relayed(&mut self, id: &SwarmId, entries: &[SignedEntry]) {
        let Some(&key) = self.by_id.get(id) else { return };
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        for signed in entries {
            let signer = signed.entry.signer;
            if signed.entry.swarm != swarm.id || self.liars.contains(&signer) {
                continue;
            }
            let claim: Option<ClaimRef> = swarm.evidence.add(signed);
            if let Some(claim) = claim {
                swarm.note_has(&signer, signed.entry.index.0, claim);
            }
        }
        self.ready.insert(key);
    }
}
