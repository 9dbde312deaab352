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

pub const MIB: u64 = 1 << 20;
const LATENCY: Duration = Duration::from_micros(200);

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A swarm of a blob of so many bytes, told apart by `name`.
pub fn blob(name: u8, size: u64) -> SwarmId {
    SwarmId { digest: Digest::sha256([name; 32]), size, origin: "registry.test".parse().unwrap(), round: 0 }
}

pub fn from_origin(origin: &str, swarm: &SwarmId) -> SwarmId {
    SwarmId { origin: origin.parse().unwrap(), ..swarm.clone() }
}

pub fn chunks(swarm: &SwarmId) -> u32 {
    swarm.layout().unwrap().count()
}

/// What a chunk of the real blob hashes to.
pub fn truth(swarm: &SwarmId, chunk: u32) -> ChunkValue {
    let mut value = [0; 32];
    value[0] = swarm.digest.hash()[0];
    value[4..8].copy_from_slice(&chunk.to_be_bytes());
    ChunkValue(value)
}

fn wrong(swarm: &SwarmId, chunk: u32) -> ChunkValue {
    let mut value = truth(swarm, chunk);
    value.0[31] = 0xbd;
    value
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Honest,
    /// Sends other bytes than it announced.
    SendsWrongBytes,
    /// Signs for wrong bytes under its leases, and serves those.
    LiesUnderLease,
    /// Accepts requests and never answers.
    Stalls,
    /// Claims all chunks in each round, without a lease, with entries of its own for wrong bytes, which it delivers.
    ClaimsWrongEntries,
    /// The same with a map that it attested.
    AttestsWrongMap,
}

impl Manner {
    /// It does nothing of what its machine would do but to take part.
    fn claims_all(self) -> bool {
        matches!(self, Self::ClaimsWrongEntries | Self::AttestsWrongMap)
    }
}

pub struct Sim {
    pub machine: PeerMachine,
    pub info: PeerInfo,
    pub manner: Manner,
    pub alive: bool,
    /// Bytes per second.
    pub up: f64,
    pub down: f64,
    up_free: f64,
    down_free: f64,
    pub may_lease: bool,
    /// What its chunks hash to, by swarm.
    bytes: BTreeMap<SwarmId, BTreeMap<u32, ChunkValue>>,
    tick: Option<Time>,
    cancelled: BTreeSet<u64>,
    cancelled_leases: BTreeSet<LeaseToken>,
    linked: BTreeSet<usize>,
    /// What a liar claims to have, in its present round.
    claims: Option<SwarmId>,
    pub first_chunk: Option<Time>,
    pub complete: BTreeMap<SwarmId, Time>,
    pub failed: BTreeMap<SwarmId, FailReason>,
    pub shunned: Vec<NodeId>,
    pub from_peers: u64,
    /// Bytes that crossed a link for a transfer that was cancelled or came second.
    pub wasted: u64,
    pub from_other_zones: u64,
    pub mismatches: u32,
    pub busy: u32,
    pub starved: u32,
    pub peak_uploads: usize,
    uploads: usize,
}

enum Ev {
    Peer(usize, Box<PeerEvent>),
    Tracker(u64, Box<TrackerEvent>),
    ToNode(u64, usize, Box<TrackerMessage>),
    Request {
        from: usize,
        to: usize,
        request: u64,
        chunk: ChunkRequest,
        want: ChunkValue,
    },
    Arrived {
        from: usize,
        to: usize,
        request: u64,
        chunk: ChunkRequest,
        want: ChunkValue,
        value: ChunkValue,
        len: u64,
    },
    OriginChunk {
        node: usize,
        lease: Box<Lease>,
        chunk: u32,
    },
    Tick(usize),
    TrackerTick(u64),
    Link(usize, usize),
}

/// A lease in force.
struct Granted {
    lease: Lease,
    holder: usize,
    /// Chunks still to come.
    left: BTreeSet<u32>,
}

impl Granted {
    fn is_origin(&self) -> bool {
        self.lease.kind == LeaseKind::Origin
    }
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

    fn connect_tracker(&mut self, node: usize) {
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

    fn later(&mut self, wait: Duration, event: Ev) {
        self.at(self.now + wait, event);
    }

    fn at(&mut self, at: Time, event: Ev) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    pub fn feed(&mut self, node: usize, event: PeerEvent) {
        if self.nodes[node].alive {
            self.nodes[node].machine.handle(self.now, event);
            self.drain(node);
        }
    }

    fn drain(&mut self, node: usize) {
        while let Some(action) = self.nodes[node].machine.poll_action() {
            self.act(node, action);
        }
        if let Some(next) = self.nodes[node].machine.next_timeout()
            && self.nodes[node].tick != Some(next.max(self.now))
        {
            // A tick is recognised by its moment, so it is noted as it is queued.
            let next = next.max(self.now);
            self.nodes[node].tick = Some(next);
            self.at(next, Ev::Tick(node));
        }
    }

    fn act(&mut self, node: usize, action: PeerAction) {
        let id = self.nodes[node].info.node;
        let takes_part =
            matches!(action, PeerAction::ToTracker(_) | PeerAction::Connect(_) | PeerAction::Disconnect(_));
        if self.nodes[node].manner.claims_all() && !takes_part {
            return;
        }
        match action {
            PeerAction::ToTracker(message) => {
                if let NodeMessage::Starved { .. } = message {
                    self.nodes[node].starved += 1;
                }
                let event = TrackerEvent::Message { from: id, message };
                self.later(LATENCY, Ev::Tracker(self.generation, Box::new(event)));
            }
            PeerAction::Connect(info) => {
                let other = self.ids[&info.node];
                self.later(LATENCY * 2, Ev::Link(node, other));
            }
            PeerAction::Disconnect(other) => {
                let other = self.ids[&other];
                if self.nodes[node].linked.remove(&other) {
                    self.nodes[other].linked.remove(&node);
                    self.later(LATENCY, Ev::Peer(other, Box::new(PeerEvent::LinkDown(id))));
                    self.later(
                        LATENCY,
                        Ev::Peer(node, Box::new(PeerEvent::LinkDown(self.nodes[other].info.node))),
                    );
                }
            }
            PeerAction::ToPeer { to, message } => {
                let to = self.ids[&to];
                if self.nodes[node].linked.contains(&to) {
                    let event = PeerEvent::Peer { from: id, message };
                    self.later(LATENCY, Ev::Peer(to, Box::new(event)));
                }
            }
            PeerAction::Fetch { request, from, swarm, index, want } => {
                let chunk = ChunkRequest { swarm, index };
                let to = self.ids[&from];
                self.later(LATENCY, Ev::Request { from: node, to, request, chunk, want });
            }
            PeerAction::Cancel { request } => {
                self.nodes[node].cancelled.insert(request);
                if let Some(to) = self.stalled.remove(&(node, request)) {
                    self.nodes[to].uploads -= 1;
                    self.nodes[to].machine.upload_ended(id);
                }
            }
            PeerAction::FetchOrigin(lease) => self.read_origin(node, lease),
            PeerAction::CancelOrigin { token, .. } => {
                self.nodes[node].cancelled_leases.insert(token);
            }
            PeerAction::Whole { swarm } => self.whole(node, swarm),
            PeerAction::NewRound { old, .. } => {
                self.nodes[node].bytes.remove(&old);
            }
            PeerAction::Failed { swarm, why } => {
                self.nodes[node].failed.insert(SwarmId { round: 0, ..swarm }, why);
            }
            PeerAction::Shunned(other) => self.nodes[node].shunned.push(other),
        }
    }

    /// A liar tells a neighbour that it has everything.
    fn claim(&mut self, node: usize, to: usize) {
        let Sim { manner, claims: Some(swarm), info, .. } = &self.nodes[node] else { return };
        let (signer, all) = (info.node, 0..chunks(swarm));
        let entry = |chunk| {
            let (index, value) = (ChunkIndex(chunk), wrong(swarm, chunk));
            let token = LeaseToken { epoch: 1, counter: 1 };
            SignedEntry {
                entry: Entry { swarm: swarm.clone(), index, value, token, signer },
                signature: [0; 64],
            }
        };
        let (held, proof) = if *manner == Manner::AttestsWrongMap {
            let attestation = Attestation { swarm: swarm.clone(), root: [6; 32], signer };
            let attestation = SignedAttestation { attestation, signature: [0; 64] };
            (
                Held::Complete,
                Proof::Map { values: all.map(|chunk| wrong(swarm, chunk)).collect(), attestation },
            )
        } else {
            (Held::Some(ChunkSet::full(all.end)), Proof::Entries(all.map(entry).collect()))
        };
        let message = PeerMessage::State { swarm: swarm.clone(), held, proof };
        self.later(LATENCY, Ev::Peer(to, Box::new(peer_message(message, signer))));
    }

    fn whole(&mut self, node: usize, swarm: SwarmId) {
        let bytes = self.nodes[node].bytes.entry(swarm.clone()).or_default();
        let right = (0..chunks(&swarm)).all(|chunk| bytes.get(&chunk) == Some(&truth(&swarm, chunk)));
        let event = if right {
            let signer = self.nodes[node].info.node;
            let round_0 = SwarmId { round: 0, ..swarm.clone() };
            self.nodes[node].complete.insert(round_0, self.now);
            let attestation = Attestation { swarm, root: [7; 32], signer };
            PeerEvent::Verified(SignedAttestation { attestation, signature: [0; 64] })
        } else {
            PeerEvent::DigestMismatch { swarm }
        };
        self.later(Duration::ZERO, Ev::Peer(node, Box::new(event)));
    }

    fn read_origin(&mut self, node: usize, lease: Lease) {
        let refused = self.refused.contains(&node);
        let throttled = self.origin_throttled_until > self.now;
        self.origin_requests_while_throttled += u32::from(throttled);
        let why = if refused {
            Some(LeaseFailure::Refused)
        } else if throttled {
            Some(LeaseFailure::Throttled(self.origin_throttled_until.since(self.now)))
        } else if self.origin_is_down || self.dead_origin == Some(lease.swarm.origin.as_str()) {
            Some(LeaseFailure::Unreachable)
        } else {
            None
        };
        if let Some(why) = why {
            let event = PeerEvent::OriginEnded { swarm: lease.swarm, token: lease.token, result: Err(why) };
            self.later(ms(5), Ev::Peer(node, Box::new(event)));
            return;
        }
        let start = if self.origin_sends_all { 0 } else { lease.chunks.start };
        self.next_origin_chunk(node, lease, start);
    }

    fn next_origin_chunk(&mut self, node: usize, lease: Lease, chunk: u32) {
        let end = if self.origin_sends_all { chunks(&lease.swarm) } else { lease.chunks.end };
        if chunk >= end {
            let event = PeerEvent::OriginEnded { swarm: lease.swarm, token: lease.token, result: Ok(()) };
            self.later(Duration::ZERO, Ev::Peer(node, Box::new(event)));
            return;
        }
        let len = lease.swarm.layout().unwrap().len_of(ChunkIndex(chunk)) as f64;
        let now = Duration::from(self.now).as_secs_f64();
        let sent = self.origin_free.max(now) + len / self.origin_up;
        self.origin_free = sent;
        let down = self.nodes[node].down;
        let got = self.nodes[node].down_free.max(sent - len / down) + len / down;
        self.nodes[node].down_free = got;
        let at = Time::from(Duration::from_secs_f64(got));
        self.at(at + LATENCY, Ev::OriginChunk { node, lease: Box::new(lease), chunk });
    }

    fn origin_chunk(&mut self, node: usize, lease: Lease, chunk: u32) {
        if !self.nodes[node].alive {
            return;
        }
        self.origin_done = Some(self.now);
        *self.origin_chunks.entry((lease.swarm.digest, chunk)).or_default() += 1;
        if self.nodes[node].cancelled_leases.contains(&lease.token) {
            return;
        }
        let lies = self.origin_lies || self.nodes[node].manner == Manner::LiesUnderLease;
        let value = if lies { wrong(&lease.swarm, chunk) } else { truth(&lease.swarm, chunk) };
        let signer = self.nodes[node].info.node;
        let entry =
            Entry { swarm: lease.swarm.clone(), index: ChunkIndex(chunk), value, token: lease.token, signer };
        self.got(node, &lease.swarm, chunk, value);
        self.feed(node, PeerEvent::OriginChunk { entry: SignedEntry { entry, signature: [0; 64] } });
        self.next_origin_chunk(node, lease, chunk + 1);
    }

    fn got(&mut self, node: usize, swarm: &SwarmId, chunk: u32, value: ChunkValue) {
        let now = self.now;
        self.nodes[node].first_chunk.get_or_insert(now);
        self.nodes[node].bytes.entry(swarm.clone()).or_default().insert(chunk, value);
    }

    fn request(&mut self, from: usize, to: usize, request: u64, chunk: ChunkRequest, want: ChunkValue) {
        if !self.nodes[to].alive || !self.nodes[from].alive || self.nodes[from].cancelled.contains(&request) {
            return;
        }
        let asker = self.nodes[from].info.node;
        let admission = if self.nodes[to].manner.claims_all() {
            Admission::Serve { want }
        } else {
            self.nodes[to].machine.admit(self.now, asker, &chunk)
        };
        let refuse = |outcome| Box::new(PeerEvent::Fetched { request, outcome });
        match admission {
            Admission::Busy => {
                self.nodes[from].busy += 1;
                self.later(LATENCY, Ev::Peer(from, refuse(FetchOutcome::Busy)));
            }
            Admission::NotHeld => self.later(LATENCY, Ev::Peer(from, refuse(FetchOutcome::NotHeld))),
            Admission::Serve { .. } => {
                self.nodes[to].uploads += 1;
                self.nodes[to].peak_uploads = self.nodes[to].peak_uploads.max(self.nodes[to].uploads);
                if self.nodes[to].manner == Manner::Stalls {
                    self.stalled.insert((from, request), to);
                    return;
                }
                let len = chunk.swarm.layout().unwrap().len_of(chunk.index);
                let now = Duration::from(self.now).as_secs_f64();
                let sent = self.nodes[to].up_free.max(now) + len as f64 / self.nodes[to].up;
                self.nodes[to].up_free = sent;
                let took = len as f64 / self.nodes[from].down;
                let got = self.nodes[from].down_free.max(sent - took) + took;
                self.nodes[from].down_free = got;
                let at = Time::from(Duration::from_secs_f64(got)) + LATENCY;
                let value = self.sends(to, &chunk);
                self.at(at, Ev::Arrived { from, to, request, chunk, want, value, len });
            }
        }
    }

    /// What a node sends for a chunk.
    fn sends(&self, to: usize, chunk: &ChunkRequest) -> ChunkValue {
        let manner = self.nodes[to].manner;
        let lies = manner == Manner::SendsWrongBytes || manner.claims_all();
        let own = self.nodes[to].bytes.iter().find_map(|(id, bytes)| {
            let same = id.digest == chunk.swarm.digest && id.size == chunk.swarm.size;
            bytes.get(&chunk.index.0).filter(|_| same)
        });
        let own = self.nodes[to].bytes.get(&chunk.swarm).and_then(|bytes| bytes.get(&chunk.index.0)).or(own);
        if lies { wrong(&chunk.swarm, chunk.index.0) } else { own.copied().unwrap() }
    }

    fn arrived(
        &mut self,
        from: usize,
        to: usize,
        request: u64,
        chunk: &ChunkRequest,
        value: Option<ChunkValue>,
        len: u64,
    ) {
        let asker = self.nodes[from].info.node;
        self.nodes[to].uploads -= 1;
        self.nodes[to].machine.upload_ended(asker);
        if !self.nodes[from].alive {
            return;
        }
        if self.nodes[from].cancelled.contains(&request) {
            self.nodes[from].wasted += len;
            return;
        }
        if !self.nodes[to].alive {
            return;
        }
        self.nodes[from].from_peers += len;
        if self.nodes[from].info.place.zone != self.nodes[to].info.place.zone {
            self.nodes[from].from_other_zones += 1;
        }
        let outcome = if let Some(value) = value {
            self.got(from, &chunk.swarm, chunk.index.0, value);
            FetchOutcome::Stored
        } else {
            self.nodes[from].mismatches += 1;
            FetchOutcome::Mismatch
        };
        self.feed(from, PeerEvent::Fetched { request, outcome });
    }

    fn feed_tracker(&mut self, event: TrackerEvent) {
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
    fn done(&mut self, node: usize, swarm: &SwarmId, chunk: u32) {
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

    fn watch_leases(&mut self, to: usize, message: &TrackerMessage) {
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

    fn step(&mut self) -> bool {
        let Some(((at, _), event)) = self.queue.pop_first() else { return false };
        self.now = at;
        match event {
            Ev::Peer(node, event) => self.feed(node, *event),
            Ev::Tracker(generation, event) if generation == self.generation => self.feed_tracker(*event),
            Ev::ToNode(generation, node, message)
                if generation == self.generation && self.tracker.is_some() =>
            {
                let round = if let TrackerMessage::Round { swarm, .. } = &*message {
                    Some(swarm.clone())
                } else {
                    None
                };
                self.feed(node, PeerEvent::Tracker(*message));
                if round.is_some() && self.nodes[node].manner.claims_all() {
                    self.nodes[node].claims = round;
                    self.nodes[node].linked.clone().into_iter().for_each(|other| self.claim(node, other));
                }
            }
            Ev::TrackerTick(generation) if generation == self.generation => {
                self.tracker_tick = None;
                self.feed_tracker(TrackerEvent::Tick);
            }
            Ev::Tracker(..) | Ev::ToNode(..) | Ev::TrackerTick(_) => {}
            Ev::Request { from, to, request, chunk, want } => self.request(from, to, request, chunk, want),
            Ev::Arrived { from, to, request, chunk, want, value, len } => {
                let value = (value == want).then_some(value);
                self.arrived(from, to, request, &chunk, value, len);
            }
            Ev::OriginChunk { node, lease, chunk } => self.origin_chunk(node, *lease, chunk),
            Ev::Tick(node) => {
                if self.nodes[node].tick == Some(at) {
                    self.nodes[node].tick = None;
                    self.feed(node, PeerEvent::Tick);
                }
            }
            Ev::Link(a, b) => self.link(a, b),
        }
        true
    }

    fn link(&mut self, a: usize, b: usize) {
        let (id_a, id_b) = (self.nodes[a].info.node, self.nodes[b].info.node);
        if !self.nodes[a].alive || !self.nodes[b].alive {
            self.feed(a, PeerEvent::ConnectFailed(id_b));
            return;
        }
        self.nodes[a].linked.insert(b);
        self.nodes[b].linked.insert(a);
        self.feed(a, PeerEvent::LinkUp(id_b));
        self.feed(b, PeerEvent::LinkUp(id_a));
        self.claim(a, b);
        self.claim(b, a);
    }

    /// Runs for this long in virtual time.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.queue.first_key_value().is_some_and(|((at, _), _)| *at <= end) {
            self.step();
        }
        self.now = end;
    }

    /// Runs until every living node has the blob; panics with what is missing after `limit`.
    pub fn run_until_complete(&mut self, swarm: &SwarmId, limit: Duration) -> Time {
        let end = self.now + limit;
        loop {
            let done = |sim: &Sim| !sim.alive || sim.complete.get(swarm).is_some_and(|at| *at <= end);
            if self.nodes.iter().all(done) {
                return self.nodes.iter().filter_map(|sim| sim.complete.get(swarm)).copied().max().unwrap();
            }
            // With nothing left to happen time would stand still.
            if self.now > end || !(0..200).fold(false, |stepped, _| self.step() || stepped) {
                break;
            }
        }
        let missing: Vec<String> = (0..self.nodes.len())
            .filter(|node| self.nodes[*node].alive && !self.nodes[*node].complete.contains_key(swarm))
            .take(5)
            .map(|node| {
                format!(
                    "{node}: starved {} {:?}",
                    self.nodes[node].starved,
                    self.nodes[node].machine.snapshot()
                )
            })
            .collect();
        let tracker = self.tracker.as_ref().map(TrackerMachine::snapshot);
        panic!("seed {}: not complete after {limit:?}: {missing:#?} {tracker:#?}", self.seed);
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
