//! The tracker, its sessions, and what is done to break its rules.

use std::time::Duration;

use shoal_proto::message::{LeaseKind, NodeMessage, TrackerMessage};
use shoal_swarm::peer::PeerEvent;
use shoal_swarm::tracker::{TrackerAction, TrackerConfig, TrackerEvent, TrackerMachine};

use super::arguments::Rule;
use super::event::Event;
use super::lease_watch::LeaseWatch;
use super::node::{Manner, Number, number_of};
use super::queue::Nanos;
use super::topology::nanos;
use super::world::World;

/// Nodes look for a lost scheduler at most this often, each in its own time.
const RETRY: Nanos = 2_000_000_000;

impl World {
    pub(super) fn start_tracker(&mut self) {
        self.generation += 1;
        let seed = self.rng.u64(..);
        let config =
            TrackerConfig { leases_in_order: self.rule(Rule::LeaseOrder), ..self.tuning.tracker.clone() };
        self.tracker = Some(TrackerMachine::new(config, self.generation, seed));
        self.tracker_tick = None;
        self.tracker_free = self.queue.now;
        self.watch = LeaseWatch::of(self.generation);
        for number in 0..self.nodes.len() {
            let number = Number::try_from(number).unwrap_or(Number::MAX);
            let wait = if self.generation == 1 { 0 } else { self.rng.u64(..=RETRY) };
            let open = Event::OpenSession { generation: self.generation, node: number };
            self.queue.at(self.queue.now + wait, open);
        }
    }

    pub(super) fn lose_tracker(&mut self) {
        self.tracker = None;
        let latency = self.topology.scheduler_latency();
        for number in 0..self.nodes.len() {
            let number = Number::try_from(number).unwrap_or(Number::MAX);
            self.queue.after(latency, Event::Peer(number, Box::new(PeerEvent::TrackerDown)));
        }
    }

    pub(super) fn open_session(&mut self, number: Number) {
        if self.nodes[number as usize].alive {
            self.feed(number, PeerEvent::TrackerUp);
            let session = Event::Session { generation: self.generation, node: number };
            self.queue.after(self.topology.scheduler_latency(), session);
        }
    }

    pub(super) fn lose_session(&mut self, number: Number) {
        let lost = Event::SessionLost { generation: self.generation, node: number };
        self.queue.after(self.topology.scheduler_latency(), lost);
    }

    pub(super) fn tell_tracker(&mut self, number: Number, message: NodeMessage) {
        if matches!(message, NodeMessage::Starved { .. }) {
            self.meter.starved += 1;
        }
        let message =
            Event::ToTracker { generation: self.generation, from: number, message: Box::new(message) };
        self.queue.after(self.topology.scheduler_latency(), message);
    }

    pub(super) fn session_opened(&mut self, generation: u64, node: Number) {
        if generation == self.generation {
            self.feed_tracker(TrackerEvent::Connected(self.nodes[node as usize].info.clone()));
        }
    }

    pub(super) fn session_lost(&mut self, generation: u64, node: Number) {
        if generation == self.generation {
            self.watch.lost(node);
            self.feed_tracker(TrackerEvent::Disconnected(self.nodes[node as usize].info.node));
        }
    }

    pub(super) fn tracker_hears(&mut self, generation: u64, from: Number, message: NodeMessage) {
        if generation != self.generation || self.tracker.is_none() {
            return;
        }
        self.meter.to_tracker += 1;
        let info = &self.nodes[from as usize].info;
        self.watch.heard(from, &info.place.zone, &message);
        self.feed_tracker(TrackerEvent::Message { from: info.node, message });
    }

    pub(super) fn tick_tracker(&mut self, generation: u64) {
        if generation == self.generation && self.tracker_tick == Some(self.queue.now) {
            self.tracker_tick = None;
            self.feed_tracker(TrackerEvent::Tick);
        }
    }

    fn feed_tracker(&mut self, event: TrackerEvent) {
        let now = self.now();
        let Some(tracker) = &mut self.tracker else { return };
        tracker.handle(now, event);
        let actions: Vec<TrackerAction> = std::iter::from_fn(|| tracker.poll_action()).collect();
        let next = tracker.next_timeout();
        // It deals with one message after another.
        let cost = nanos(self.arguments.scheduler_cost);
        self.tracker_free = self.tracker_free.max(self.queue.now) + cost;
        for TrackerAction::Send { to, message } in actions {
            self.tracker_says(number_of(&to), message);
        }
        if let Some(next) = next {
            let next = nanos(Duration::from(next)).max(self.queue.now);
            if self.tracker_tick.is_none_or(|known| known > next) {
                self.tracker_tick = Some(next);
                self.queue.at(next, Event::TrackerTick(self.generation));
            }
        }
    }

    fn tracker_says(&mut self, to: Number, message: TrackerMessage) {
        self.meter.from_tracker += 1;
        if matches!(message, TrackerMessage::Lease(_)) && std::mem::take(&mut self.first_lessee_lies) {
            self.nodes[to as usize].manner = Manner::SignsWrongBytes;
        }
        if let TrackerMessage::Lease(lease) = &message
            && lease.kind == LeaseKind::Origin
            && !self.rule(Rule::Leases)
        {
            // Who leases nothing lets others read the same.
            let other = self.rng.u32(..Number::try_from(self.nodes.len()).unwrap_or(Number::MAX));
            if other != to {
                self.send_from_tracker(other, message.clone());
            }
        }
        self.send_from_tracker(to, message);
    }

    fn send_from_tracker(&mut self, to: Number, message: TrackerMessage) {
        let zone = &self.nodes[to as usize].info.place.zone;
        if let Some(twice) = self.watch.said(to, zone, &message) {
            self.meter.violation(twice);
        }
        let at: Nanos = self.tracker_free + self.topology.scheduler_latency();
        let message = Event::FromTracker { generation: self.generation, to, message: Box::new(message) };
        self.queue.at(at, message);
    }
}
