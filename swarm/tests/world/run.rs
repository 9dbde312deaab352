//! What can happen, and the course of time.

use super::*;

pub(super) enum Ev {
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

impl World {
    pub(super) fn later(&mut self, wait: Duration, event: Ev) {
        self.at(self.now + wait, event);
    }

    pub(super) fn at(&mut self, at: Time, event: Ev) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    pub fn feed(&mut self, node: usize, event: PeerEvent) {
        if self.nodes[node].alive {
            self.nodes[node].machine.handle(self.now, event);
            self.drain(node);
        }
    }

    pub(super) fn drain(&mut self, node: usize) {
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

    pub(super) fn step(&mut self) -> bool {
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
}
