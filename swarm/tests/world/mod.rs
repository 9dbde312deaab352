//! A cluster in virtual time: real machines, links with bandwidth and latency, an origin that counts.
//!
//! Links serve transfers one after another at full rate. Signatures are dummies: checking them is the drivers' part.
// Each test file uses a part of this; and it stands in for what may fail loudly.
#![allow(dead_code, unreachable_pub, missing_debug_implementations)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_proto::message::{
    ChunkRequest, Held, Lease, LeaseFailure, LeaseKind, NodeMessage, PeerInfo, PeerMessage, Place, Proof,
    TrackerMessage,
};
use shoal_proto::{
    Attestation, ChunkIndex, ChunkSet, ChunkValue, Digest, Entry, LeaseToken, NodeId, SignedAttestation,
    SignedEntry, SwarmId,
};
use shoal_swarm::Time;
use shoal_swarm::peer::{
    Admission, FailReason, FetchOutcome, PeerAction, PeerConfig, PeerEvent, PeerMachine,
};
use shoal_swarm::tracker::{TrackerAction, TrackerConfig, TrackerEvent, TrackerMachine};

mod actions;
mod blob;
mod node;
mod origin;
mod run;
mod tracker;
mod transfers;

pub use blob::*;
pub use node::{Manner, Sim};
use run::Ev;
use tracker::Granted;

pub const MIB: u64 = 1 << 20;
/// A chunk of all blobs of up to 128 MiB.
pub const CHUNK: u64 = shoal_proto::MIN_CHUNK;
const LATENCY: Duration = Duration::from_micros(200);

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}
pub struct World {
    pub seed: u64,
    pub now: Time,
    pub nodes: Vec<Sim>,
    pub tracker: Option<TrackerMachine>,
    generation: u64,
    tracker_tick: Option<Time>,
    pub origin_up: f64,
    origin_free: f64,
    pub origin_chunks: BTreeMap<(Digest, u32), u32>,
    /// When the origin last sent a chunk.
    pub origin_done: Option<Time>,
    pub origin_throttled_until: Time,
    pub origin_requests_while_throttled: u32,
    pub throttle_for: Duration,
    pub refused: BTreeSet<usize>,
    pub origin_is_down: bool,
    /// This one alone is down.
    pub dead_origin: Option<&'static str>,
    /// The origin delivers other bytes than the digest says.
    pub origin_lies: bool,
    /// The origin knows no Range: it sends the whole blob whatever was asked for.
    pub origin_sends_all: bool,
    queue: BTreeMap<(Time, u64), Ev>,
    sequence: u64,
    ids: BTreeMap<NodeId, usize>,
    /// Uploads that send nothing, by who asked and its request: a reset of the stream ends them.
    stalled: BTreeMap<(usize, u64), usize>,
    /// Leases that the tracker believes in force, to prove that no chunk is granted twice.
    granted: BTreeMap<LeaseToken, Granted>,
    pub double_grants: u32,
    pub tracker_messages: u64,
    pub rng: fastrand::Rng,
}

pub fn config() -> TrackerConfig {
    TrackerConfig { report_within: ms(50), ..TrackerConfig::default() }
}

impl World {
    /// Prints the seed, which is shown when the test fails.
    pub fn new(seed: u64, nodes: usize) -> Self {
        let mut world = Self::in_zones(seed, nodes, &[""]);
        world.start_tracker();
        world
    }

    pub fn in_zones(seed: u64, nodes: usize, zones: &[&str]) -> Self {
        println!("seed {seed}");
        let mut world = Self {
            seed,
            now: Time::ZERO,
            nodes: Vec::new(),
            tracker: None,
            generation: 0,
            tracker_tick: None,
            origin_up: 100.0 * MIB as f64,
            origin_free: 0.0,
            origin_chunks: BTreeMap::new(),
            origin_done: None,
            origin_throttled_until: Time::ZERO,
            origin_requests_while_throttled: 0,
            throttle_for: Duration::ZERO,
            refused: BTreeSet::new(),
            origin_is_down: false,
            dead_origin: None,
            origin_lies: false,
            origin_sends_all: false,
            queue: BTreeMap::new(),
            sequence: 0,
            ids: BTreeMap::new(),
            stalled: BTreeMap::new(),
            granted: BTreeMap::new(),
            double_grants: 0,
            tracker_messages: 0,
            rng: fastrand::Rng::with_seed(seed),
        };
        for number in 0..nodes {
            world.add(zones[number % zones.len()], PeerConfig::default());
        }
        world
    }

    pub fn add(&mut self, zone: &str, config: PeerConfig) -> usize {
        let number = self.nodes.len();
        let node = NodeId::from_bytes(self.rng.u128(..).to_be_bytes().repeat(2).try_into().unwrap());
        let place = Place { zone: zone.into(), rack: format!("{}", number / 20).into() };
        let info = PeerInfo { node, addresses: vec!["10.0.0.1:5103".parse().unwrap()], place };
        let seed = self.rng.u64(..);
        self.ids.insert(node, number);
        self.nodes.push(Sim {
            machine: PeerMachine::new(info.clone(), config, seed),
            info,
            manner: Manner::Honest,
            alive: true,
            up: 100.0 * MIB as f64,
            down: 100.0 * MIB as f64,
            up_free: 0.0,
            down_free: 0.0,
            may_lease: true,
            bytes: BTreeMap::new(),
            tick: None,
            cancelled: BTreeSet::new(),
            cancelled_leases: BTreeSet::new(),
            linked: BTreeSet::new(),
            claims: None,
            first_chunk: None,
            complete: BTreeMap::new(),
            failed: BTreeMap::new(),
            shunned: Vec::new(),
            from_peers: 0,
            wasted: 0,
            from_other_zones: 0,
            mismatches: 0,
            busy: 0,
            starved: 0,
            peak_uploads: 0,
            uploads: 0,
        });
        if self.tracker.is_some() {
            self.connect_tracker(number);
        }
        number
    }

    /// A node dies without a word; links break after a while.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].alive = false;
        let id = self.nodes[node].info.node;
        self.later(ms(50), Ev::Tracker(self.generation, Box::new(TrackerEvent::Disconnected(id))));
        for other in std::mem::take(&mut self.nodes[node].linked) {
            self.nodes[other].linked.remove(&node);
            self.later(ms(50), Ev::Peer(other, Box::new(PeerEvent::LinkDown(id))));
        }
    }

    pub fn join(&mut self, node: usize, swarm: &SwarmId) {
        let held = Held::Some(ChunkSet::empty(chunks(swarm)));
        let liar = self.nodes[node].manner.claims_all();
        let may_lease = self.nodes[node].may_lease && !liar;
        if liar {
            self.nodes[node].claims = Some(swarm.clone());
            // It does not finish.
            let now = self.now;
            self.nodes[node].complete.insert(swarm.clone(), now);
        }
        let event = PeerEvent::Join { swarm: swarm.clone(), held, proof: None, wants: true, may_lease };
        self.feed(node, event);
        let all = 0..chunks(swarm);
        self.feed(node, PeerEvent::Want { swarm: swarm.clone(), reader: 1, chunks: all });
    }

    pub fn join_all(&mut self, swarm: &SwarmId) {
        for node in 0..self.nodes.len() {
            self.join(node, swarm);
        }
    }

    /// How often each chunk was sent by the origin, on average.
    pub fn egress(&self, swarm: &SwarmId) -> f64 {
        let sent = self.origin_chunks.iter().filter(|((digest, _), _)| *digest == swarm.digest);
        f64::from(sent.map(|(_, times)| times).sum::<u32>()) / f64::from(chunks(swarm))
    }

    pub fn wasted_share(&self) -> f64 {
        let wasted: u64 = self.nodes.iter().map(|sim| sim.wasted).sum();
        let got: u64 = self.nodes.iter().map(|sim| sim.from_peers).sum();
        wasted as f64 / got.max(1) as f64
    }

    pub fn at_secs(time: Time) -> f64 {
        Duration::from(time).as_secs_f64()
    }
}

pub fn peer_message(message: PeerMessage, from: NodeId) -> PeerEvent {
    PeerEvent::Peer { from, message }
}
