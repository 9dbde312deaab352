//! What a node's machine asks for.

use super::*;

impl World {
    pub(super) fn act(&mut self, node: usize, action: PeerAction) {
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
                    self.feed(to, PeerEvent::UploadEnded { to: id });
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
    pub(super) fn claim(&mut self, node: usize, to: usize) {
        let Sim { manner, claims: Some(swarm), info, .. } = &self.nodes[node] else { return };
        let (signer, all) = (info.node, 0..chunks(swarm));
        let entry = |chunk| {
            let (index, value) = (ChunkIndex(chunk), wrong(swarm, chunk));
            let token = LeaseToken { epoch: 1, counter: 1 };
            SignedEntry::new(Entry { swarm: swarm.clone(), index, value, token, signer }, [0; 64])
        };
        let (held, proof) = if *manner == Manner::AttestsWrongMap {
            let attestation = Attestation { swarm: swarm.clone(), root: [6; 32], signer };
            let attestation = Box::new(SignedAttestation { attestation, signature: [0; 64] });
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

    pub(super) fn whole(&mut self, node: usize, swarm: SwarmId) {
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

    pub(super) fn link(&mut self, a: usize, b: usize) {
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
}
