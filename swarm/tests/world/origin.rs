//! What is read from the origin under leases.

use super::*;

impl World {
    pub(super) fn read_origin(&mut self, node: usize, lease: Lease) {
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

    pub(super) fn next_origin_chunk(&mut self, node: usize, lease: Lease, chunk: u32) {
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

    pub(super) fn origin_chunk(&mut self, node: usize, lease: Lease, chunk: u32) {
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
        self.feed(node, PeerEvent::OriginChunk { entry: SignedEntry::new(entry, [0; 64]) });
        self.next_origin_chunk(node, lease, chunk + 1);
    }
}
