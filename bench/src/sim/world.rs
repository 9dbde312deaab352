//! A cluster in virtual time: real machines, simulated links.

use std::time::Duration;

use shoal_proto::message::{Held, Place, Proof};
use shoal_proto::{Attestation, NodeId, SignedAttestation, SwarmId};
use shoal_swarm::Time;
use shoal_swarm::peer::{PeerConfig, PeerEvent};
use shoal_swarm::tracker::{TrackerConfig, TrackerMachine};
use slab::Slab;

use super::arguments::{Rule, SimArguments};
use super::event::{Event, Ticket};
use super::flows::{FlowId, Flows};
use super::image::Image;
use super::lease_watch::LeaseWatch;
use super::meter::Meter;
use super::node::{Manner, Node, Number};
use super::origin::{Origin, Read};
use super::peers::Transfer;
use super::queue::{Nanos, Queue};
use super::topology::{Port, Topology, nanos};

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
    /// Names of all nodes and where they are attached, close together: most events need one of these and nothing else of
    /// the node.
    pub(super) names: Vec<NodeId>,
    pub(super) ports: Vec<Port>,
    /// As long as no link was lost, whoever was linked is.
    pub(super) lost_a_link: bool,
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
}

pub(super) fn time(nanos: Nanos) -> Time {
    Time::from(Duration::from_nanos(nanos))
}

impl World {
    pub(super) fn new(arguments: &SimArguments, tuning: Tuning, image: Image) -> Self {
        let mut flows = Flows::default();
        let topology = Topology::new(&mut flows, arguments);
        let rng = fastrand::Rng::with_seed(arguments.seed);
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
            names: Vec::new(),
            ports: Vec::new(),
            lost_a_link: false,
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

    pub(super) fn latency(&self, a: Number, b: Number) -> Nanos {
        self.topology.latency(&self.ports[a as usize], &self.ports[b as usize])
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
        let node = Node::new(number, place, self.tuning.peer.clone(), &self.image, &mut self.rng);
        self.names.push(node.info.node);
        self.ports.push(port);
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
            let attestation = Box::new(attestation(&swarm, self.nodes[number as usize].info.node));
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
    pub(super) fn read_next_layer(&mut self, number: Number) {
        let node = &mut self.nodes[number as usize];
        while node.copies.get(node.next_layer).is_some_and(|copy| copy.done) {
            node.next_layer += 1;
        }
        let blob = node.next_layer;
        if let Some(known) = self.image.blobs.get(blob) {
            node.next_layer += 1;
            let chunks = 0..known.layout.count();
            let swarm = known.swarm.clone();
            self.nodes[number as usize].copies[blob].asked = Some(self.queue.now);
            self.handle(number, PeerEvent::Want { swarm, reader: 1, chunks });
            self.look_at_hold(number, blob);
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
}

pub(super) fn attestation(swarm: &SwarmId, signer: NodeId) -> SignedAttestation {
    let attestation = Attestation { swarm: swarm.clone(), root: [7; 32], signer };
    SignedAttestation { attestation, signature: [0; 64] }
}

/// Whether a node hands out what it should not.
pub(super) fn lies(manner: Manner) -> bool {
    manner != Manner::Honest
}
