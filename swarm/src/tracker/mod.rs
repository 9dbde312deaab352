//! Who may read from an origin, or bring chunks into a zone, and who are neighbours.
//!
//! All of it is soft state that nodes can rebuild by saying anew what they hold. What it costs grows with chunks times
//! zones, and with joins; not with nodes times chunks: who has which chunk is known to neighbours, here only who
//! had it first.

mod completion;
mod config;
mod event;
mod facts;
mod full_lines;
mod grants;
mod membership;
mod neighbours;
mod origin_leases;
mod readers;
mod roster;
mod snapshot;
mod starved;
mod swarm_state;
mod zone_leases;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shoal_proto::message::{NodeMessage, PeerInfo, TrackerMessage};
use shoal_proto::{Digest, NodeId, RegistryName, SwarmId};

use crate::Time;
pub use config::TrackerConfig;
pub use event::{TrackerAction, TrackerEvent};
pub use snapshot::{TrackedSwarm, TrackerSnapshot};

use facts::Facts;
use origin_leases::Origin;
use roster::Roster;
use swarm_state::Swarm;

/// A node's number while it is connected; a node that comes back has another.
type NodeKey = u32;
type SwarmKey = u32;
type ZoneKey = u32;

/// Swarms that are tracked; beyond, joins are ignored. 10,000 nodes share far fewer blobs.
const MAX_SWARMS: usize = 1 << 18;
/// Nodes remembered as liars.
const MAX_SHUNNED: usize = 4096;

/// A connected node.
#[derive(Debug)]
struct Node {
    info: PeerInfo,
    zone: ZoneKey,
    reported: bool,
    swarms: BTreeSet<SwarmKey>,
    /// Leases in its hands.
    leases: usize,
    /// Leases that failed in a row, and until when it gets none.
    failures: u32,
    rests_until: Time,
}

/// All swarms of the same bytes, and who has them whole and may give them to each of these swarms.
#[derive(Debug, Default)]
struct Blob {
    swarms: BTreeSet<SwarmKey>,
    complete: BTreeMap<ZoneKey, Roster>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Open,
    LeaseEnds(SwarmKey, u64),
    Origin(RegistryName),
    Swarm(SwarmKey),
}

/// The tracker machine. See [`TrackerEvent`] and [`TrackerAction`].
#[derive(Debug)]
pub struct TrackerMachine {
    config: TrackerConfig,
    epoch: u64,
    rng: fastrand::Rng,
    now: Time,
    started: Option<Time>,
    open: bool,
    nodes: BTreeMap<NodeKey, Node>,
    node_keys: BTreeMap<NodeId, NodeKey>,
    next_node: NodeKey,
    zones: BTreeMap<Box<str>, ZoneKey>,
    swarms: BTreeMap<SwarmKey, Swarm>,
    /// By the swarm's name in round 0.
    by_id: BTreeMap<SwarmId, SwarmKey>,
    next_swarm: SwarmKey,
    blobs: BTreeMap<(Digest, u64), Blob>,
    origins: BTreeMap<RegistryName, Origin>,
    next_token: u64,
    facts: Facts,
    shunned: BTreeSet<NodeId>,
    /// Swarms in which leases may be given now.
    stirred: BTreeSet<SwarmKey>,
    expired: u64,
    timers: BTreeSet<(Time, Timer)>,
    actions: VecDeque<TrackerAction>,
}

/// The name under which all rounds of a swarm are known.
fn round_0(id: &SwarmId) -> SwarmId {
    SwarmId { round: 0, ..id.clone() }
}

impl TrackerMachine {
    /// A tracker that knows nothing. `epoch` tells its leases from those of others; draw it at random.
    pub fn new(config: TrackerConfig, epoch: u64, seed: u64) -> Self {
        Self {
            facts: Facts::new(config.facts),
            config,
            epoch,
            rng: fastrand::Rng::with_seed(seed),
            now: Time::ZERO,
            started: None,
            open: false,
            nodes: BTreeMap::new(),
            node_keys: BTreeMap::new(),
            next_node: 0,
            zones: BTreeMap::new(),
            swarms: BTreeMap::new(),
            by_id: BTreeMap::new(),
            next_swarm: 0,
            blobs: BTreeMap::new(),
            origins: BTreeMap::new(),
            next_token: 0,
            shunned: BTreeSet::new(),
            stirred: BTreeSet::new(),
            expired: 0,
            timers: BTreeSet::new(),
            actions: VecDeque::new(),
        }
    }

    /// Takes in an event. `now` must not go back.
    pub fn handle(&mut self, now: Time, event: TrackerEvent) {
        self.now = self.now.max(now);
        if self.started.is_none() {
            self.started = Some(self.now);
            let (first, last) =
                (self.now + self.config.report_within, self.now + self.config.report_within * 2);
            self.timers.extend([(first, Timer::Open), (last, Timer::Open)]);
        }
        match event {
            TrackerEvent::Connected(info) => self.connected(info),
            TrackerEvent::Disconnected(node) => self.disconnected(&node),
            TrackerEvent::Message { from, message } => {
                if let Some(&node) = self.node_keys.get(&from) {
                    self.message(node, message);
                }
            }
            TrackerEvent::Tick => {}
        }
        self.fire_timers();
        self.give_leases();
    }

    /// The next thing to do, until there is none.
    pub fn poll_action(&mut self) -> Option<TrackerAction> {
        self.actions.pop_front()
    }

    /// When to send [`TrackerEvent::Tick`], unless another event comes first.
    pub fn next_timeout(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Who has a swarm's bytes whole, by zone: its own members, and those of other swarms that may share them.
    fn whole<'a>(&'a self, swarm: &'a Swarm) -> impl Iterator<Item = (ZoneKey, &'a Roster)> {
        let shared = self.blobs.get(&(swarm.id.digest, swarm.id.size)).map(|blob| &blob.complete);
        let all = swarm.complete.iter().chain(shared.into_iter().flatten());
        all.filter(|(_, nodes)| !nodes.is_empty()).map(|(zone, nodes)| (*zone, nodes))
    }

    fn send(&mut self, to: NodeKey, message: TrackerMessage) {
        if let Some(node) = self.nodes.get(&to) {
            self.actions.push_back(TrackerAction::Send { to: node.info.node, message });
        }
    }

    fn fire_timers(&mut self) {
        while self.timers.first().is_some_and(|(at, _)| *at <= self.now) {
            match self.timers.pop_first() {
                Some((_, Timer::Open)) => self.may_open(),
                Some((_, Timer::LeaseEnds(swarm, token))) => self.lease_may_end(swarm, token),
                Some((_, Timer::Origin(origin))) => self.stir_origin(&origin),
                Some((_, Timer::Swarm(swarm))) => self.stir(swarm),
                None => {}
            }
        }
    }

    /// Leases may be given in this swarm.
    fn stir(&mut self, swarm: SwarmKey) {
        self.stirred.insert(swarm);
    }

    fn stir_origin(&mut self, origin: &RegistryName) {
        let of_origin = self.swarms.iter().filter(|(_, swarm)| swarm.id.origin == *origin);
        self.stirred.extend(of_origin.map(|(key, _)| *key));
    }

    fn give_leases(&mut self) {
        let mut origins = BTreeSet::new();
        for key in std::mem::take(&mut self.stirred) {
            self.give_zone_leases(key);
            if let Some(origin) = self.queue(key) {
                origins.insert(origin);
            }
        }
        for origin in origins {
            self.give_origin_leases(&origin);
        }
    }

    fn message(&mut self, node: NodeKey, message: NodeMessage) {
        match message {
            NodeMessage::Join(memberships) => {
                for membership in memberships {
                    self.join(node, membership);
                }
            }
            NodeMessage::Leave(swarms) => {
                for swarm in swarms {
                    if let Some(&key) = self.by_id.get(&round_0(&swarm)) {
                        self.leave(key, node);
                    }
                }
            }
            NodeMessage::Reported => {
                if let Some(node) = self.nodes.get_mut(&node) {
                    node.reported = true;
                }
                self.may_open();
            }
            NodeMessage::Progress { swarm, token, entries } => self.progress(node, &swarm, token, &entries),
            NodeMessage::Return { swarm, token, why } => self.returned(node, &swarm, token, why),
            NodeMessage::Complete(signed) => self.completed(node, signed),
            NodeMessage::Mismatch(swarm) => self.mismatch(node, &swarm),
            NodeMessage::Starved { swarm, chunks } => self.starved(node, &swarm, &chunks),
            message => self.fact(node, message),
        }
    }

    /// What has nothing to do with swarms' chunks.
    fn fact(&mut self, node: NodeKey, message: NodeMessage) {
        match message {
            NodeMessage::Tag(record) => self.facts.add_tag(self.now, record),
            NodeMessage::TagLookup { request, registry, repository, tag } => {
                let record = self.facts.tag(self.now, registry, repository, tag);
                self.send(node, TrackerMessage::TagFound { request, record });
            }
            NodeMessage::Anonymous { registry, repository, open } => {
                self.facts.set_anonymous(registry, repository, open);
            }
            NodeMessage::AnonymousLookup { request, registry, repository } => {
                let known = self.facts.is_anonymous(registry, repository);
                self.send(node, TrackerMessage::AnonymousFound { request, known });
            }
            _ => {}
        }
    }

    /// Origin leases are given once the nodes said what they hold: what one has need not be read again.
    fn may_open(&mut self) {
        let Some(started) = self.started else { return };
        let passed = self.now.since(started);
        let reported = self.nodes.values().all(|node| node.reported);
        let within = self.config.report_within;
        if !self.open && ((reported && passed >= within) || passed >= within * 2) {
            self.open = true;
            self.stirred.extend(self.swarms.keys());
        }
    }

    /// What the machine knows, for people and metrics.
    pub fn snapshot(&self) -> TrackerSnapshot {
        let tracked = |swarm: &Swarm| TrackedSwarm {
            swarm: swarm.id.clone(),
            members: swarm.members.len(),
            complete: swarm.members.values().filter(|member| member.complete).count(),
            present: swarm.places.present(),
            total: swarm.chunks(),
            origin_leases: swarm.origin_grants,
            zone_leases: swarm.grants.len() - swarm.origin_grants,
            attested: swarm.attested(self.config.attestations).is_some(),
        };
        let swarms: Vec<TrackedSwarm> = self.swarms.values().map(tracked).collect();
        TrackerSnapshot {
            nodes: self.nodes.len(),
            origin_leases: swarms.iter().map(|swarm| swarm.origin_leases).sum(),
            zone_leases: swarms.iter().map(|swarm| swarm.zone_leases).sum(),
            swarms,
            origin_bytes: self.origins.iter().map(|(name, origin)| (name.clone(), origin.bytes)).collect(),
            leases_expired: self.expired,
            shunned: self.shunned.iter().copied().collect(),
            open: self.open,
        }
    }
}
