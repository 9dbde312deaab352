//! A cluster in virtual time: real machines, simulated links.

use std::time::Duration;

use shoal_proto::message::{Held, Place, Proof};
use shoal_proto::{Attestation, ChunkIndex, LeaseToken, NodeId, SignedAttestation, SwarmId};
use shoal_swarm::Time;
use shoal_swarm::peer::{PeerAction, PeerConfig, PeerEvent};
use shoal_swarm::tracker::{TrackerConfig, TrackerMachine};
use slab::Slab;

use super::arguments::{Rule, SimArguments};
use super::event::{Event, Step, Ticket};
use super::flows::{FlowId, Flows};
use super::image::{Blob, BlobId, Image};
use super::lease_watch::LeaseWatch;
use super::meter::Meter;
use super::node::{Manner, Node, Number, number_of};
use super::origin::{Origin, Read};
use super::peers::Transfer;
use super::queue::{Nanos, Queue};
use super::topology::{Topology, nanos};

/// What a flow carries.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cargo {
    Transfer(Ticket),
    Read(Ticket),
}

/// The machines' constants.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    pub peer: PeerConfig,
    pub tracker: TrackerConfig,
}

/// The cluster.
#[derive(Debug)]
pub(super) struct World {
    pub(super) arguments: SimArguments,
    pub(super) tuning: Tuning,
    pub(super) image: Image,
    pub(super) rng: fastrand::Rng,
    pub(super) queue: Queue<Event>,
    pub(super) flows: Flows,
    /// What each flow carries, by its number.
    pub(super) cargo: Vec<Option<Cargo>>,
    pub(super) topology: Topology,
    pub(super) nodes: Vec<Node>,
    pub(super) tracker: Option<TrackerMachine>,
    pub(super) generation: u64,
    pub(super) tracker_tick: Option<Nanos>,
    /// When the tracker has dealt with all that came.
    pub(super) tracker_free: Nanos,
    /// The next node that gets a lease signs for wrong bytes.
    pub(super) first_lessee_lies: bool,
    pub(super) transfers: Slab<Transfer>,
    pub(super) origin: Origin,
    pub(super) reads: Slab<Read>,
    pub(super) serial: u64,
    pub(super) watch: LeaseWatch,
    pub(super) meter: Meter,
    /// Nodes that are told to pull, in groups: each once the one before has finished.
    pub(super) waves: Vec<Vec<Number>>,
    /// Nodes that pull and have not finished, and steps to come.
    pub(super) awaited: usize,
    pub(super) steps: usize,
    chunk_cost: Nanos,
    /// Where in a blob clients begin to read, of 1.
    begin_at: f64,
}

pub(super) fn time(nanos: Nanos) -> Time {
    Time::from(Duration::from_nanos(nanos))
}

impl World {
    pub(super) fn new(arguments: &SimArguments, tuning: Tuning, image: Image) -> Self {
        let mut flows = Flows::default();
        let topology = Topology::new(&mut flows, arguments);
        let mut rng = fastrand::Rng::with_seed(arguments.seed);
        let begin_at = if arguments.without.contains(&Rule::LeaseOrder) { rng.f64() } else { 0.0 };
        Self {
            arguments: arguments.clone(),
            tuning,
            image,
            rng,
            queue: Queue::new(),
            flows,
            cargo: Vec::new(),
            topology,
            nodes: Vec::new(),
            tracker: None,
            generation: 0,
            tracker_tick: None,
            tracker_free: 0,
            first_lessee_lies: false,
            transfers: Slab::new(),
            origin: Origin::default(),
            reads: Slab::new(),
            serial: 0,
            watch: LeaseWatch::default(),
            meter: Meter::default(),
            waves: Vec::new(),
            awaited: 0,
            steps: 0,
            chunk_cost: nanos(arguments.chunk_cost),
            begin_at,
        }
    }

    pub(super) fn rule(&self, rule: Rule) -> bool {
        !self.arguments.without.contains(&rule)
    }

    pub(super) fn now(&self) -> Time {
        time(self.queue.now)
    }

    pub(super) fn ticket(&mut self, slot: usize) -> Ticket {
        self.serial += 1;
        Ticket { slot, serial: self.serial }
    }

    /// What checking and writing so many bytes takes a node.
    pub(super) fn cost_of(&self, bytes: u64) -> Nanos {
        self.chunk_cost * bytes / (1 << 20)
    }

    /// Adds a node with a link of so many bytes per second.
    pub(super) fn add(&mut self, rate: f64) -> Number {
        let number = Number::try_from(self.nodes.len()).unwrap_or(Number::MAX);
        let port = self.topology.attach(&mut self.flows, number, rate);
        // Nodes that know of one zone only ask whomever they like.
        let zoned = self.arguments.zones > 1 && self.rule(Rule::Zones);
        let zone = if zoned { format!("zone-{}", port.zone) } else { String::new() };
        let racked = self.arguments.racks > 1;
        let rack = if racked { format!("rack-{}", port.rack) } else { String::new() };
        let place = Place { zone: zone.into(), rack: rack.into() };
        let node = Node::new(number, place, port, self.tuning.peer.clone(), &self.image, &mut self.rng);
        self.nodes.push(node);
        self.restore(number);
        if self.tracker.is_some() {
            self.open_session(number);
        }
        number
    }

    /// What a node had when it started is told to its machine.
    fn restore(&mut self, number: Number) {
        for blob in 0..self.image.blobs.len() {
            if !self.image.blobs[blob].shared {
                continue;
            }
            let swarm = self.image.blobs[blob].swarm.clone();
            let chunks = self.image.blobs[blob].layout.count();
            let values = (0..chunks).map(|chunk| self.image.truth(blob, chunk)).collect();
            let attestation = attestation(&swarm, self.nodes[number as usize].info.node);
            let proof = Some(Proof::Map { values, attestation });
            let event =
                PeerEvent::Join { swarm, held: Held::Complete, proof, wants: false, may_lease: false };
            self.feed(number, event);
        }
    }

    /// A node is told to pull the image: it joins all layers at once, and its client asks for the first.
    pub(super) fn begin(&mut self, number: Number) {
        let node = &mut self.nodes[number as usize];
        if !node.alive || node.began.is_some() {
            return;
        }
        node.began = Some(self.queue.now);
        self.awaited += usize::from(self.nodes[number as usize].is_awaited());
        for blob in 0..self.image.blobs.len() {
            let Node { copies, .. } = &self.nodes[number as usize];
            if copies[blob].done {
                continue;
            }
            let held = Held::Some(copies[blob].held.clone());
            let swarm = self.image.blobs[blob].swarm.clone();
            self.handle(number, PeerEvent::Join { swarm, held, proof: None, wants: true, may_lease: true });
        }
        for _ in 0..self.arguments.readers {
            self.read_next_layer(number);
        }
        self.drain(number);
    }

    /// The client asks for one more layer.
    fn read_next_layer(&mut self, number: Number) {
        let node = &mut self.nodes[number as usize];
        while node.copies.get(node.next_layer).is_some_and(|copy| copy.done) {
            node.next_layer += 1;
        }
        let blob = node.next_layer;
        if let Some(known) = self.image.blobs.get(blob) {
            node.next_layer += 1;
            let chunks = first_read(self.begin_at, known)..known.layout.count();
            let swarm = known.swarm.clone();
            self.handle(number, PeerEvent::Want { swarm, reader: 1, chunks });
        }
    }

    fn handle(&mut self, number: Number, event: PeerEvent) {
        let now = self.now();
        self.nodes[number as usize].machine.handle(now, event);
    }

    pub(super) fn feed(&mut self, number: Number, event: PeerEvent) {
        if self.nodes[number as usize].alive {
            self.handle(number, event);
            self.drain(number);
        }
    }

    fn drain(&mut self, number: Number) {
        while let Some(action) = self.nodes[number as usize].machine.poll_action() {
            self.act(number, action);
        }
        let now = self.queue.now;
        let node = &mut self.nodes[number as usize];
        let Some(next) = node.machine.next_timeout() else { return };
        let next = nanos(Duration::from(next)).max(now);
        // One tick is enough: when it comes, the next one is planned.
        if node.tick.is_none_or(|known| known > next) {
            node.tick = Some(next);
            self.queue.at(next, Event::Tick(number));
        }
    }

    fn tick(&mut self, number: Number) {
        let now = self.queue.now;
        let node = &mut self.nodes[number as usize];
        if node.tick != Some(now) {
            return;
        }
        node.tick = None;
        self.feed(number, PeerEvent::Tick);
    }

    fn act(&mut self, number: Number, action: PeerAction) {
        match action {
            PeerAction::ToTracker(message) => self.tell_tracker(number, message),
            PeerAction::Connect(info) => {
                let other = number_of(&info.node);
                let round_trip = 2 * self.latency(number, other);
                self.queue.after(round_trip, Event::Link(number, other));
            }
            PeerAction::Disconnect(other) => self.disconnect(number, number_of(&other)),
            PeerAction::ToPeer { to, message } => {
                let to = number_of(&to);
                if self.nodes[number as usize].linked.contains(&to) {
                    let message = Event::Message { from: number, to, message: Box::new(message) };
                    self.queue.after(self.latency(number, to), message);
                }
            }
            PeerAction::Fetch { request, from, swarm, index, want } => {
                self.fetch(number, number_of(&from), request, &swarm, index, want);
            }
            PeerAction::Cancel { request } => self.cancel(number, request),
            PeerAction::FetchOrigin(lease) => self.read_origin(number, lease),
            PeerAction::CancelOrigin { token, .. } => self.cancel_read(number, token),
            PeerAction::Whole { swarm } => self.whole(number, swarm),
            PeerAction::NewRound { old, .. } => self.discard(number, &old),
            PeerAction::Failed { swarm, why } => {
                self.meter.violation(format!("node {number} failed blob {}: {why}", self.image.id(&swarm)));
            }
            PeerAction::Shunned(other) => self.meter.shunned(number_of(&other)),
        }
    }

    pub(super) fn latency(&self, a: Number, b: Number) -> Nanos {
        self.topology.latency(&self.nodes[a as usize].port, &self.nodes[b as usize].port)
    }

    /// All chunks are there: the digest decides.
    fn whole(&mut self, number: Number, swarm: SwarmId) {
        let blob = self.image.id(&swarm);
        let signer = self.nodes[number as usize].info.node;
        let trusts_all = !self.rule(Rule::Verification);
        let event = if trusts_all || self.nodes[number as usize].copies[blob].is_right() {
            PeerEvent::Verified(attestation(&swarm, signer))
        } else {
            PeerEvent::DigestMismatch { swarm }
        };
        // The rest was hashed as it came.
        let last = self.image.len_of(blob, self.image.blobs[blob].layout.count().saturating_sub(1));
        let cost = self.cost_of(last);
        if matches!(event, PeerEvent::Verified(_)) {
            self.completed(number, blob, self.queue.now + cost);
        }
        self.queue.at(self.queue.now + cost, Event::Peer(number, Box::new(event)));
    }

    fn completed(&mut self, number: Number, blob: BlobId, at: Nanos) {
        let node = &mut self.nodes[number as usize];
        let awaited = node.is_awaited();
        node.copies[blob].done = true;
        if node.copies.iter().all(|copy| copy.done) {
            node.finished.get_or_insert(at);
            self.awaited -= usize::from(awaited);
            self.meter.finished(at);
        } else {
            self.read_next_layer(number);
        }
    }

    fn discard(&mut self, number: Number, swarm: &SwarmId) {
        let blob = self.image.id(swarm);
        let bytes = |index: ChunkIndex| self.image.len_of(blob, index.0);
        let copy = &mut self.nodes[number as usize].copies[blob];
        let lost: u64 = copy.held.iter().map(bytes).sum();
        copy.clear();
        self.meter.discarded += lost;
    }

    /// A chunk is written; false when it was there.
    pub(super) fn keep(
        &mut self,
        number: Number,
        blob: BlobId,
        chunk: u32,
        value: shoal_proto::ChunkValue,
    ) -> bool {
        let truth = self.image.truth(blob, chunk);
        let now = self.queue.now;
        let node = &mut self.nodes[number as usize];
        if chunk == first_read(self.begin_at, &self.image.blobs[blob]) {
            node.first_byte.get_or_insert(now);
        }
        node.copies[blob].insert(chunk, value, truth)
    }

    /// Runs until all have finished, or `limit` is over.
    pub(super) fn run(&mut self, limit: Nanos) {
        loop {
            if self.awaited == 0 && self.steps == 0 && !self.next_wave() {
                return;
            }
            let event = self.queue.next_at();
            let end = self.flows.next_end();
            let next = match (event, end) {
                (Some(event), Some(end)) => event.min(end),
                (Some(at), None) | (None, Some(at)) => at,
                (None, None) => return,
            };
            if next > limit {
                return;
            }
            if end == Some(next) {
                self.queue.now = next;
                self.flow_ended();
            } else if let Some(event) = self.queue.pop() {
                self.flows.advance(next);
                self.dispatch(event);
            }
        }
    }

    fn next_wave(&mut self) -> bool {
        let Some(wave) = self.waves.pop() else { return false };
        for number in wave {
            self.begin(number);
        }
        true
    }

    fn flow_ended(&mut self) {
        let Some(flow) = self.flows.take_end() else { return };
        let carried = self.flows.stop(flow);
        match self.cargo.get_mut(flow as usize).and_then(Option::take) {
            Some(Cargo::Transfer(ticket)) => self.sent(ticket, carried),
            Some(Cargo::Read(ticket)) => self.origin_sent(ticket, carried),
            None => {}
        }
    }

    pub(super) fn start_flow(&mut self, path: super::flows::Path, bytes: u64, cargo: Cargo) -> FlowId {
        let flow = self.flows.start(path, bytes);
        let slot = flow as usize;
        if self.cargo.len() <= slot {
            self.cargo.resize(slot + 1, None);
        }
        self.cargo[slot] = Some(cargo);
        flow
    }

    pub(super) fn stop_flow(&mut self, flow: FlowId) -> u64 {
        self.cargo[flow as usize] = None;
        self.flows.stop(flow)
    }

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Peer(number, event) => self.feed(number, *event),
            Event::Message { from, to, message } => {
                if self.nodes[to as usize].linked.contains(&from) {
                    let from = self.nodes[from as usize].info.node;
                    self.feed(to, PeerEvent::Peer { from, message: *message });
                }
            }
            Event::ToTracker { generation, from, message } => self.tracker_hears(generation, from, *message),
            Event::OpenSession { generation, node } => {
                if generation == self.generation {
                    self.open_session(node);
                }
            }
            Event::Session { generation, node } => self.session_opened(generation, node),
            Event::SessionLost { generation, node } => self.session_lost(generation, node),
            Event::FromTracker { generation, to, message } => {
                if generation == self.generation && self.tracker.is_some() {
                    self.feed(to, PeerEvent::Tracker(*message));
                }
            }
            Event::TrackerTick(generation) => self.tick_tracker(generation),
            Event::Tick(number) => self.tick(number),
            Event::Link(from, to) => self.link(from, to),
            Event::LinkLost { node, other } => self.link_lost(node, other),
            Event::Request(ticket) => self.requested(ticket),
            Event::Refused(ticket, outcome) => self.refused(ticket, outcome),
            Event::Landed(ticket) => self.landed(ticket),
            Event::UploadEnded { node, to } => self.upload_ended(node, to),
            Event::OriginAnswers(ticket) => self.origin_answers(ticket),
            Event::OriginChunk(ticket, index) => self.origin_chunk(ticket, index),
            Event::OriginEnded(ticket) => self.origin_ended(ticket),
            Event::Step(step) => self.step(step),
            Event::Sample => self.sample(),
        }
    }

    pub(super) fn plan(&mut self, at: Nanos, step: Step) {
        self.steps += 1;
        self.queue.at(at, Event::Step(step));
    }

    fn step(&mut self, step: Step) {
        self.steps -= 1;
        match step {
            Step::Begin(number) => self.begin(number),
            Step::Kill(number) => self.kill(number),
            Step::Arrive => {
                let number = self.add(self.arguments.link.bytes_per_second());
                self.begin(number);
            }
            Step::LoseTracker => self.lose_tracker(),
            Step::StartTracker => self.start_tracker(),
            Step::Throttle => self.origin.throttled = true,
            Step::Unthrottle => self.origin.throttled = false,
        }
    }

    /// A node dies without a word. Its session breaks at once, its links when nothing was heard for a while.
    pub(super) fn kill(&mut self, number: Number) {
        let node = &mut self.nodes[number as usize];
        if !node.alive {
            return;
        }
        self.awaited -= usize::from(node.is_awaited());
        node.alive = false;
        let (asked, sending) = (std::mem::take(&mut node.asked), std::mem::take(&mut node.sending));
        let tokens: Vec<LeaseToken> = node.reads.iter().map(|read| self.reads[*read].lease.token).collect();
        let silence = nanos(self.arguments.silence);
        for token in tokens {
            self.cancel_read(number, token);
        }
        for (_, slot) in asked {
            self.abandon(slot, silence);
        }
        for slot in sending {
            self.sender_died(slot);
        }
        for other in self.nodes[number as usize].linked.clone() {
            self.queue.after(silence, Event::LinkLost { node: other, other: number });
        }
        self.lose_session(number);
    }

    fn sample(&mut self) {
        let origin = self.origin.sent;
        self.meter.sample(self.queue.now, origin);
        if let Some(every) = self.meter.every {
            self.queue.after(every, Event::Sample);
        }
    }
}

/// The chunk that a client reads first.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the blob's chunks")]
fn first_read(begin_at: f64, blob: &Blob) -> u32 {
    (f64::from(blob.layout.count()) * begin_at) as u32
}

pub(super) fn attestation(swarm: &SwarmId, signer: NodeId) -> SignedAttestation {
    let attestation = Attestation { swarm: swarm.clone(), root: [7; 32], signer };
    SignedAttestation { attestation, signature: [0; 64] }
}

/// Whether a node hands out what it should not.
pub(super) fn lies(manner: Manner) -> bool {
    manner != Manner::Honest
}
