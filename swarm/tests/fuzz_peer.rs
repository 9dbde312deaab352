//! Whatever order events come in, the peer machine does not panic and keeps its bounds.
// Tests may fail loudly.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod world;

use shoal_proto::message::{
    ChunkRequest, Held, Lease, LeaseFailure, LeaseKind, PeerInfo, PeerMessage, Place, Proof, TrackerMessage,
};
use shoal_proto::{
    Attestation, ChunkIndex, ChunkSet, Entry, LeaseToken, NodeId, SignedAttestation, SignedEntry, SwarmId,
};
use shoal_swarm::Time;
use shoal_swarm::peer::{Admission, FetchOutcome, PeerAction, PeerConfig, PeerEvent, PeerMachine};
use world::{MIB, blob, chunks, from_origin, truth};

struct Fuzz {
    rng: fastrand::Rng,
    swarms: Vec<SwarmId>,
}

impl Fuzz {
    fn node(&mut self) -> NodeId {
        NodeId::from_bytes([self.rng.u8(0..8); 32])
    }

    fn info(&mut self) -> PeerInfo {
        let zone = ["", "a", "b"][self.rng.usize(..3)];
        let place = Place { zone: zone.into(), rack: "".into() };
        PeerInfo { node: self.node(), addresses: vec![], place }
    }

    fn swarm(&mut self) -> SwarmId {
        let mut swarm = self.swarms[self.rng.usize(..self.swarms.len())].clone();
        swarm.round = self.rng.u32(..4) / 2;
        swarm
    }

    fn index(&mut self) -> ChunkIndex {
        ChunkIndex(self.rng.u32(..12))
    }

    fn token(&mut self) -> LeaseToken {
        LeaseToken { epoch: self.rng.u64(..2), counter: self.rng.u64(..6) }
    }

    fn entries(&mut self, swarm: &SwarmId) -> Vec<SignedEntry> {
        let count = self.rng.usize(..6);
        let entry = |fuzz: &mut Self| {
            let index = fuzz.index();
            let mut value = truth(swarm, index.0);
            value.0[30] = fuzz.rng.u8(..2);
            let entry =
                Entry { swarm: swarm.clone(), index, value, token: fuzz.token(), signer: fuzz.node() };
            SignedEntry::new(entry, [0; 64])
        };
        (0..count).map(|_| entry(self)).collect()
    }

    fn attestation(&mut self, swarm: &SwarmId) -> SignedAttestation {
        let attestation = Attestation { swarm: swarm.clone(), root: [1; 32], signer: self.node() };
        SignedAttestation { attestation, signature: [0; 64] }
    }

    fn held(&mut self, swarm: &SwarmId) -> Held {
        if self.rng.u8(..4) == 0 {
            return Held::Complete;
        }
        let mut set = ChunkSet::empty(chunks(swarm));
        for _ in 0..self.rng.usize(..8) {
            set.insert(self.index());
        }
        Held::Some(set)
    }

    fn proof(&mut self, swarm: &SwarmId) -> Proof {
        if self.rng.bool() {
            return Proof::Entries(self.entries(swarm));
        }
        let mut values: Vec<_> = (0..chunks(swarm)).map(|chunk| truth(swarm, chunk)).collect();
        if self.rng.u8(..4) == 0
            && let Some(first) = values.first_mut()
        {
            first.0[30] = 1;
        }
        Proof::Map { values, attestation: Box::new(self.attestation(swarm)) }
    }

    fn peer_message(&mut self) -> PeerMessage {
        let swarm = self.swarm();
        let indexes = |fuzz: &mut Self| (0..fuzz.rng.usize(..4)).map(|_| fuzz.index()).collect();
        match self.rng.u8(..7) {
            0 | 1 => PeerMessage::State { held: self.held(&swarm), proof: self.proof(&swarm), swarm },
            2 => PeerMessage::Have { entries: self.entries(&swarm), swarm },
            3 => PeerMessage::HaveIndexes { chunks: indexes(self), swarm },
            4 => PeerMessage::Complete(swarm),
            5 => PeerMessage::Forget { chunks: indexes(self), swarm },
            _ => PeerMessage::Leave(swarm),
        }
    }

    fn tracker_message(&mut self) -> TrackerMessage {
        let swarm = self.swarm();
        match self.rng.u8(..7) {
            0 => TrackerMessage::Welcome { epoch: self.rng.u64(..2), report_within: world::ms(50) },
            1 | 2 => TrackerMessage::Neighbours { swarm, peers: vec![self.info(), self.info()] },
            3 | 4 => {
                let start = self.rng.u32(..12);
                let chunks = start..start + self.rng.u32(..5);
                let kind = if self.rng.bool() { LeaseKind::Origin } else { LeaseKind::Zone(self.info()) };
                TrackerMessage::Lease(Lease {
                    swarm,
                    token: self.token(),
                    chunks,
                    kind,
                    lasts: world::secs(2),
                })
            }
            5 => TrackerMessage::Revoke { swarm, token: self.token() },
            _ if self.rng.u8(..4) == 0 => TrackerMessage::Round { swarm, readers: vec![self.node()] },
            _ => TrackerMessage::Entries { entries: self.entries(&swarm), swarm },
        }
    }

    fn event(&mut self, open: &[u64], whole: &[SwarmId]) -> PeerEvent {
        let swarm = self.swarm();
        let result =
            [Ok(()), Err(LeaseFailure::Refused), Err(LeaseFailure::Unreachable)][self.rng.usize(..3)];
        match self.rng.u8(..24) {
            0 | 1 => {
                let proof = self.rng.bool().then(|| self.proof(&swarm));
                PeerEvent::Join {
                    held: self.held(&swarm),
                    proof,
                    wants: true,
                    may_lease: self.rng.bool(),
                    swarm,
                }
            }
            2 if self.rng.bool() => PeerEvent::Leave { swarm },
            3 => {
                let start = self.rng.u32(..14);
                let chunks = start..self.rng.u32(..14);
                PeerEvent::Want { swarm, reader: self.rng.u64(..3), chunks }
            }
            4 => PeerEvent::Unwant { swarm, reader: self.rng.u64(..3) },
            5 if self.rng.bool() => PeerEvent::Shareable { swarm },
            5 => PeerEvent::TrackerUp,
            6 if self.rng.u8(..4) == 0 => PeerEvent::TrackerDown,
            7 | 8 => PeerEvent::LinkUp(self.node()),
            9 if self.rng.u8(..4) == 0 => PeerEvent::LinkDown(self.node()),
            10 => PeerEvent::ConnectFailed(self.node()),
            11..=14 => PeerEvent::Peer { from: self.node(), message: self.peer_message() },
            15..=17 => PeerEvent::Tracker(self.tracker_message()),
            18..=20 if !open.is_empty() => {
                use FetchOutcome::{Busy, Failed, Mismatch, NotHeld, Stored};
                let outcome = [Stored, Stored, Stored, Mismatch, Busy, NotHeld, Failed][self.rng.usize(..7)];
                PeerEvent::Fetched { request: open[self.rng.usize(..open.len())], outcome }
            }
            21 if !whole.is_empty() => {
                let swarm = whole[self.rng.usize(..whole.len())].clone();
                if self.rng.bool() {
                    return PeerEvent::DigestMismatch { swarm };
                }
                PeerEvent::Verified(self.attestation(&swarm))
            }
            22 => match self.entries(&swarm).into_iter().next() {
                Some(entry) => PeerEvent::OriginChunk { entry },
                None => PeerEvent::OriginEnded { swarm, token: self.token(), result },
            },
            23 => PeerEvent::Lost { swarm, chunks: vec![self.index()] },
            _ => PeerEvent::Tick,
        }
    }
}

fn run(seed: u64) {
    println!("seed {seed}");
    let swarms =
        vec![blob(1, 10 * MIB), blob(2, 0), blob(3, 100), from_origin("other.test", &blob(1, 10 * MIB))];
    let mut fuzz = Fuzz { rng: fastrand::Rng::with_seed(seed), swarms };
    let me = PeerInfo { node: NodeId::from_bytes([200; 32]), addresses: vec![], place: Place::default() };
    let mut machine = PeerMachine::new(me, PeerConfig::default(), seed);
    let (mut now, mut open, mut whole) = (Time::ZERO, Vec::new(), Vec::new());
    let mut uploads: Vec<NodeId> = Vec::new();
    for _ in 0..600 {
        now += world::ms(fuzz.rng.u64(..40));
        let event = fuzz.event(&open, &whole);
        if let PeerEvent::Fetched { request, .. } = &event {
            open.retain(|known| known != request);
        }
        machine.handle(now, event);
        while let Some(action) = machine.poll_action() {
            match action {
                PeerAction::Fetch { request, from, swarm, index, want } => {
                    assert!(
                        !machine.held(&swarm).is_some_and(|held| held.contains(index)),
                        "seed {seed}: held"
                    );
                    assert!(!machine.snapshot().shunned.contains(&from), "seed {seed}: shunned");
                    assert_eq!(want.0[4..8], index.0.to_be_bytes(), "seed {seed}: another chunk's value");
                    open.push(request);
                }
                PeerAction::Cancel { request } => open.retain(|known| *known != request),
                PeerAction::Whole { swarm } => whole.push(swarm),
                _ => {}
            }
        }
        // Slots, and as many doubled requests.
        assert!(open.len() <= 16, "seed {seed}: {} in flight", open.len());
        assert_eq!(machine.snapshot().downloads, open.len(), "seed {seed}");
        let request = ChunkRequest { swarm: fuzz.swarm(), index: fuzz.index() };
        let from = fuzz.node();
        if let Admission::Serve { .. } = machine.admit(now, from, &request) {
            uploads.push(from);
        }
        assert!(uploads.len() <= PeerConfig::default().most_uploads(), "seed {seed}");
        if fuzz.rng.bool()
            && let Some(from) = uploads.pop()
        {
            machine.handle(now, PeerEvent::UploadEnded { to: from });
        }
    }
}

#[test]
fn random_events_never_break_the_peer_machine() {
    (0..300).for_each(run);
}
