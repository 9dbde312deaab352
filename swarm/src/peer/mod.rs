//! What one node asks of whom next, over all its blobs: it owns the slots.
//!
//! Events change state and mark what has to be looked at; the looking is done once, when the driver asks for the
//! next action, so that what arrives together is decided and announced together. No work grows with the number
//! of nodes, and little with that of chunks.

mod announce;
mod config;
mod event;
mod evidence;
mod key_set;
mod leases;
mod links;
mod neighbours;
mod node_map;
mod report;
mod rounds;
mod selection;
mod snapshot;
mod starving;
mod swarm_state;
mod timers;
mod transfers;
mod uploads;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shoal_proto::message::{Held, PeerInfo, PeerMessage, Proof};
use shoal_proto::{ChunkIndex, ChunkSet, ChunkValue, Digest, NodeId, SignedEntry, SwarmId};

use crate::Time;
pub use config::PeerConfig;
pub use event::{Admission, FailReason, FetchOutcome, PeerAction, PeerEvent};
pub use snapshot::{PeerSnapshot, SwarmStatus};

use key_set::KeySet;
use links::{Links, Pace};
use report::Session;
use swarm_state::{Phase, Reader, Swarm};
use timers::{Timer, Timers};
use transfers::Request;
use uploads::Uploads;

/// A swarm's number within the machine.
type Key = u32;

/// Nodes of whose wrong chunks a count is kept, and nodes that are shunned: far above a cluster's liars.
const REMEMBERED_NODES: usize = 4096;

/// The peer machine. See [`PeerEvent`] and [`PeerAction`].
#[derive(Debug)]
pub struct PeerMachine {
    me: PeerInfo,
    config: PeerConfig,
    rng: fastrand::Rng,
    now: Time,
    swarms: BTreeMap<Key, Swarm>,
    by_id: BTreeMap<SwarmId, Key>,
    by_blob: BTreeMap<(Digest, u64), BTreeSet<Key>>,
    next_key: Key,
    links: Links,
    /// Nodes that are not dealt with any more.
    shunned: BTreeSet<NodeId>,
    /// Those of them that signed for wrong bytes: what they signed counts for nothing, whoever passes it on. One that
    /// only sent wrong bytes may have signed for right ones, which honest nodes have and announce with its entry.
    liars: BTreeSet<NodeId>,
    rejected: BTreeMap<NodeId, u32>,
    requests: BTreeMap<u64, Request>,
    /// Not later than the first of them is to be looked at. Nearly all end before, so it is not kept exact.
    look_at: Option<Time>,
    next_request: u64,
    uploads: Uploads,
    pace: Pace,
    /// Seconds for a byte of the last chunk that was read from an origin.
    line: f64,
    /// Chunks that neighbours sent.
    got: u64,
    /// Bytes that may be fetched twice.
    spare: f64,
    session: Session,
    timers: Timers,
    /// Swarms in which something may be asked for.
    ready: KeySet,
    /// Swarms with something to announce at once.
    urgent: KeySet,
    turns: u64,
    unsettled: bool,
    actions: VecDeque<PeerAction>,
}

impl PeerMachine {
    /// A machine for the node `me`. The same seed and events give the same actions.
    pub fn new(me: PeerInfo, config: PeerConfig, seed: u64) -> Self {
        Self {
            me,
            config,
            rng: fastrand::Rng::with_seed(seed),
            now: Time::ZERO,
            swarms: BTreeMap::new(),
            by_id: BTreeMap::new(),
            by_blob: BTreeMap::new(),
            next_key: 0,
            links: Links::default(),
            shunned: BTreeSet::new(),
            liars: BTreeSet::new(),
            rejected: BTreeMap::new(),
            requests: BTreeMap::new(),
            look_at: None,
            next_request: 0,
            uploads: Uploads::default(),
            pace: Pace::default(),
            line: 0.0,
            got: 0,
            spare: 0.0,
            session: Session::default(),
            timers: Timers::default(),
            ready: KeySet::default(),
            urgent: KeySet::default(),
            turns: 0,
            unsettled: false,
            actions: VecDeque::new(),
        }
    }

    /// Takes in an event. `now` must not go back.
    pub fn handle(&mut self, now: Time, event: PeerEvent) {
        self.now = self.now.max(now);
        self.unsettled = true;
        match event {
            PeerEvent::Join { swarm, held, proof, wants, may_lease } => {
                self.join(swarm, &held, proof, wants, may_lease);
            }
            PeerEvent::Leave { swarm } => {
                if let Some(&key) = self.by_id.get(&swarm) {
                    self.leave(key);
                }
            }
            PeerEvent::Shareable { swarm } => self.shareable(&swarm),
            PeerEvent::Access { swarm, may_lease } => self.access(&swarm, may_lease),
            PeerEvent::Want { swarm, reader, chunks } => self.want(&swarm, reader, chunks),
            PeerEvent::Unwant { swarm, reader } => {
                if let Some(swarm) = self.swarm_mut(&swarm) {
                    swarm.readers.remove(&reader);
                }
            }
            PeerEvent::TrackerUp => self.tracker_up(),
            PeerEvent::TrackerDown => self.tracker_down(),
            PeerEvent::Tracker(message) => self.tracker_message(message),
            PeerEvent::LinkUp(node) => self.link_up(node),
            PeerEvent::LinkDown(node) => self.link_down(node),
            PeerEvent::ConnectFailed(node) => self.connect_failed(node),
            PeerEvent::Peer { from, message } => self.peer_message(from, message),
            PeerEvent::Fetched { request, outcome } => self.fetched(request, outcome),
            PeerEvent::OriginChunk { entry } => self.origin_chunk(&entry),
            PeerEvent::OriginEnded { swarm, token, result } => self.origin_ended(&swarm, token, result),
            PeerEvent::Verified(signed) => self.verified(&signed),
            PeerEvent::DigestMismatch { swarm } => self.digest_mismatch(&swarm),
            PeerEvent::Lost { swarm, chunks } => self.lost(&swarm, &chunks),
            PeerEvent::UploadEnded { to } => self.upload_ended(to),
            PeerEvent::Tick => {}
        }
        self.fire_timers();
    }

    /// The next thing to do, until there is none.
    pub fn poll_action(&mut self) -> Option<PeerAction> {
        if self.actions.is_empty() && self.unsettled {
            self.unsettled = false;
            self.settle();
        }
        self.actions.pop_front()
    }

    /// When to send [`PeerEvent::Tick`], unless another event comes first. Ask after the actions were taken.
    pub fn next_timeout(&self) -> Option<Time> {
        self.timers.first().into_iter().chain(self.look_at).min()
    }

    /// What a chunk must hash to: that of the held chunk, else the only claim's.
    pub fn value(&self, swarm: &SwarmId, index: ChunkIndex) -> Option<ChunkValue> {
        let swarm = self.swarm(swarm)?;
        let map = swarm.own_map.map(evidence::ClaimRef::Map);
        let claim = swarm.held_claim(index.0).or(map).unwrap_or(evidence::ClaimRef::Entry(0));
        swarm.evidence.value(index.0, claim)
    }

    /// The entry that vouches for this value of a chunk; `None` where an attested map does.
    pub fn evidence(&self, swarm: &SwarmId, index: ChunkIndex, value: ChunkValue) -> Option<SignedEntry> {
        let swarm = self.swarm(swarm)?;
        swarm.evidence.find(index.0, value)
    }

    /// The chunks that this node has.
    pub fn held(&self, swarm: &SwarmId) -> Option<&ChunkSet> {
        self.swarm(swarm).map(|swarm| &swarm.held)
    }

    fn swarm(&self, id: &SwarmId) -> Option<&Swarm> {
        self.swarms.get(self.by_id.get(id)?)
    }

    fn swarm_mut(&mut self, id: &SwarmId) -> Option<&mut Swarm> {
        self.swarms.get_mut(self.by_id.get(id)?)
    }

    /// All swarms of the same bytes, whatever the origin and round.
    fn siblings(&self, id: &SwarmId) -> Vec<Key> {
        self.by_blob.get(&(id.digest, id.size)).map(|keys| keys.iter().copied().collect()).unwrap_or_default()
    }

    fn act(&mut self, action: PeerAction) {
        self.actions.push_back(action);
    }

    fn say(&mut self, to: NodeId, message: PeerMessage) {
        self.act(PeerAction::ToPeer { to, message });
    }

    fn wake_at(&mut self, at: Time, timer: Timer) {
        self.timers.insert(at, timer);
    }

    fn fire_timers(&mut self) {
        if self.look_at.is_some_and(|at| at <= self.now) {
            self.look_at_overdue();
        }
        while let Some(timer) = self.timers.pop_until(self.now) {
            match timer {
                Timer::Flush(key) => self.flush(key),
                Timer::Retry(key) => self.retry(key),
                Timer::Starving(key) => self.look_for_starving(key),
                Timer::RoundWait(key) => self.round_wait_over(key),
                Timer::LeaseEnds(key, token) => self.lease_may_end(key, token),
                Timer::Connect(node) => self.connect(node),
                Timer::IdleLink(node) => self.close_if_idle(node),
                Timer::Report => self.report_next(),
                Timer::ZonesOpen => self.ready.extend(self.swarms.keys().copied()),
            }
        }
    }

    /// How many of something, of which there are so many on an ordinary link, there are on this node's.
    fn when_fast(&self, ordinary: usize) -> usize {
        if self.pace.is_fast() { ordinary * self.config.when_fast } else { ordinary }
    }

    fn download_slots(&self) -> usize {
        let config = &self.config;
        if self.is_slow() { config.downloads_when_slow } else { self.when_fast(config.downloads) }
    }

    fn is_slow(&self) -> bool {
        self.pace.is_slow(self.line)
    }

    /// Decides what follows from all that was taken in.
    fn settle(&mut self) {
        self.send_joins();
        for key in std::mem::take(&mut self.urgent) {
            self.flush(key);
        }
        self.fill_slots();
    }

    fn join(&mut self, id: SwarmId, held: &Held, proof: Option<Proof>, wants: bool, may_lease: bool) {
        let Ok(layout) = id.layout() else { return };
        let key = match self.by_id.get(&id) {
            Some(&key) => key,
            None => self.add_swarm(Swarm::new(id, layout)),
        };
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        swarm.wants = wants;
        swarm.may_lease = may_lease;
        // Told anew of what the machine knows to be whole, nothing changes.
        if swarm.phase != Phase::Complete {
            take_proof(swarm, held, proof);
        }
        let asked = swarm.asked.keys().copied();
        let not_needed: Vec<u32> = asked.filter(|chunk| swarm.held.contains(ChunkIndex(*chunk))).collect();
        not_needed.into_iter().for_each(|chunk| self.cancel_chunk(key, chunk));
        self.session.announce(key);
        self.ready.insert(key);
        self.watch(key);
        self.check_whole(key);
    }

    fn add_swarm(&mut self, swarm: Swarm) -> Key {
        let key = self.next_key;
        self.next_key += 1;
        self.by_id.insert(swarm.id.clone(), key);
        self.by_blob.entry((swarm.id.digest, swarm.id.size)).or_default().insert(key);
        self.swarms.insert(key, swarm);
        key
    }

    /// Removes a swarm with all that is under way for it.
    fn remove_swarm(&mut self, key: Key) -> Option<Swarm> {
        self.cancel_all(key);
        let swarm = self.swarms.remove(&key)?;
        self.by_id.remove(&swarm.id);
        let blob = (swarm.id.digest, swarm.id.size);
        if let Some(keys) = self.by_blob.get_mut(&blob) {
            keys.remove(&key);
            if keys.is_empty() {
                self.by_blob.remove(&blob);
            }
        }
        self.ready.remove(key);
        self.urgent.remove(key);
        for node in swarm.neighbours.keys() {
            self.link_unused(*node);
        }
        Some(swarm)
    }

    fn leave(&mut self, key: Key) {
        let Some(swarm) = self.remove_swarm(key) else { return };
        for node in swarm.neighbours.keys() {
            if self.is_up(node) {
                self.say(*node, PeerMessage::Leave(swarm.id.clone()));
            }
        }
        self.left(swarm.id);
    }

    fn shareable(&mut self, id: &SwarmId) {
        let Some(&key) = self.by_id.get(id) else { return };
        if let Some(swarm) = self.swarms.get_mut(&key)
            && !std::mem::replace(&mut swarm.shareable, true)
        {
            self.session.announce(key);
        }
    }

    fn access(&mut self, id: &SwarmId, may_lease: bool) {
        let Some(&key) = self.by_id.get(id) else { return };
        if let Some(swarm) = self.swarms.get_mut(&key) {
            swarm.may_lease = may_lease;
            self.session.announce(key);
        }
    }

    fn want(&mut self, id: &SwarmId, reader: u64, chunks: std::ops::Range<u32>) {
        let Some(&key) = self.by_id.get(id) else { return };
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let cursor = chunks.start;
        swarm.readers.insert(reader, Reader { chunks, cursor });
        if !swarm.wants {
            swarm.wants = true;
            self.session.announce(key);
        }
        self.ready.insert(key);
        self.watch(key);
    }

    fn lost(&mut self, id: &SwarmId, chunks: &[ChunkIndex]) {
        let Some(&key) = self.by_id.get(id) else { return };
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        let gone: Vec<ChunkIndex> = chunks.iter().copied().filter(|index| swarm.lose(index.0)).collect();
        // A whole blob is found incomplete while its digest is checked.
        if gone.is_empty() && swarm.phase != Phase::Checking {
            return;
        }
        swarm.phase = Phase::Fetching;
        let message = PeerMessage::Forget { swarm: swarm.id.clone(), chunks: gone };
        let told: Vec<NodeId> =
            swarm.neighbours.iter().filter(|(_, other)| other.state_sent).map(|(node, _)| *node).collect();
        for node in told {
            self.say(node, message.clone());
        }
        self.session.announce(key);
        self.ready.insert(key);
        self.watch(key);
        self.check_whole(key);
    }

    /// Once all chunks are held the digest decides.
    fn check_whole(&mut self, key: Key) {
        let Some(swarm) = self.swarms.get_mut(&key) else { return };
        if swarm.phase == Phase::Fetching && swarm.held.is_full() {
            swarm.phase = Phase::Checking;
            let action = PeerAction::Whole { swarm: swarm.id.clone() };
            self.act(action);
        }
    }

    /// What the machine knows, for people and metrics.
    pub fn snapshot(&self) -> PeerSnapshot {
        let status = |swarm: &Swarm| SwarmStatus {
            swarm: swarm.id.clone(),
            held: swarm.held.count(),
            total: swarm.chunks(),
            complete: swarm.phase == Phase::Complete,
            neighbours: swarm.neighbours.keys().filter(|node| self.is_up(node)).count(),
            leases: swarm.leases.len(),
            readers: swarm.readers.len(),
        };
        PeerSnapshot {
            swarms: self.swarms.values().map(status).collect(),
            links: self.links.iter().filter(|link| link.is_up()).count(),
            downloads: self.requests.len(),
            uploads: self.uploads.count(),
            tracker: self.session.is_up(),
            rejected: self.rejected.clone(),
            shunned: self.shunned.iter().copied().collect(),
        }
    }
}

/// Notes what the store has, as far as it is proven.
fn take_proof(swarm: &mut Swarm, held: &Held, proof: Option<Proof>) {
    let full = ChunkSet::full(swarm.chunks());
    let chunks = match held {
        Held::Some(chunks) if chunks.len() == swarm.chunks() => chunks,
        Held::Some(_) => return,
        Held::Complete => &full,
    };
    match proof {
        Some(Proof::Map { values, attestation }) => {
            let Some(map) = swarm.evidence.add_map(&values, &attestation) else { return };
            swarm.own_map = Some(map);
            for index in chunks.iter() {
                swarm.hold(index.0, evidence::ClaimRef::Map(map));
            }
            if *held == Held::Complete {
                swarm.complete(*attestation);
            }
        }
        Some(Proof::Entries(entries)) => {
            for signed in entries {
                let index = signed.entry.index;
                if signed.entry.swarm == swarm.id
                    && let Some(claim) = swarm.evidence.add(&signed)
                    && chunks.contains(index)
                {
                    swarm.hold(index.0, claim);
                }
            }
        }
        None => {}
    }
}
