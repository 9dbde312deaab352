//! The course of a run: what is next, and whom it concerns.

use shoal_proto::LeaseToken;
use shoal_swarm::peer::PeerEvent;

use super::event::{Event, Step};
use super::node::Number;
use super::queue::Nanos;
use super::topology::nanos;
use super::world::{Cargo, World};

impl World {
    /// Runs until all have finished, or `limit` is over.
    pub(super) fn run(&mut self, limit: Nanos) {
        loop {
            if self.awaited == 0 && self.steps == 0 && !self.next_wave() {
                return;
            }
            // Of one moment the end of a flow comes first.
            let end = self.flows.next_end().filter(|end| *end <= limit);
            let latest = end.map_or(limit, |end| end.saturating_sub(1));
            if let Some(event) = self.queue.pop_until(latest) {
                self.flows.advance(self.queue.now);
                self.dispatch(event);
            } else if let Some(end) = end {
                self.queue.now = end;
                self.flow_ended();
            } else {
                return;
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

    fn dispatch(&mut self, event: Event) {
        match event {
            Event::Peer(number, event) => self.feed(number, *event),
            Event::Message { from, to, message } => {
                if self.is_still_linked(to, from) {
                    let from = self.names[from as usize];
                    self.feed(to, PeerEvent::Peer { from, message });
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
            Event::Hold { node, blob } => self.look_at_hold(node, blob),
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
