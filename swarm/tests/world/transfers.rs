//! Chunks that nodes send each other.

use super::*;

impl World {
    pub(super) fn got(&mut self, node: usize, swarm: &SwarmId, chunk: u32, value: ChunkValue) {
        let now = self.now;
        self.nodes[node].first_chunk.get_or_insert(now);
        self.nodes[node].bytes.entry(swarm.clone()).or_default().insert(chunk, value);
    }

    pub(super) fn request(
        &mut self,
        from: usize,
        to: usize,
        request: u64,
        chunk: ChunkRequest,
        want: ChunkValue,
    ) {
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
    pub(super) fn sends(&self, to: usize, chunk: &ChunkRequest) -> ChunkValue {
        let manner = self.nodes[to].manner;
        let lies = manner == Manner::SendsWrongBytes || manner.claims_all();
        let own = self.nodes[to].bytes.iter().find_map(|(id, bytes)| {
            let same = id.digest == chunk.swarm.digest && id.size == chunk.swarm.size;
            bytes.get(&chunk.index.0).filter(|_| same)
        });
        let own = self.nodes[to].bytes.get(&chunk.swarm).and_then(|bytes| bytes.get(&chunk.index.0)).or(own);
        if lies { wrong(&chunk.swarm, chunk.index.0) } else { own.copied().unwrap() }
    }

    pub(super) fn arrived(
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
        self.feed(to, PeerEvent::UploadEnded { to: asker });
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
}
