//! Whatever nodes say, the tracker machine does not panic and keeps its bounds.
// Tests may fail loudly.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod world;

use std::collections::BTreeMap;

use shoal_proto::message::{
    Held, Lease, LeaseFailure, LeaseKind, Membership, NodeMessage, PeerInfo, Place, TrackerMessage,
};
use shoal_proto::{
    Attestation, ChunkIndex, ChunkSet, Entry, LeaseToken, NodeId, SignedAttestation, SignedEntry, SwarmId,
};
use shoal_swarm::Time;
use shoal_swarm::tracker::{TrackerAction, TrackerEvent, TrackerMachine};
use world::{MIB, blob, chunks, config, truth};

fn message(rng: &mut fastrand::Rng, from: NodeId, swarm: SwarmId, leases: &[Lease]) -> NodeMessage {
    let count = chunks(&swarm);
    let index = ChunkIndex(rng.u32(..count.max(1) + 2));
    let mut held = ChunkSet::empty(count);
    for _ in 0..rng.u32(..4) {
        held.insert(ChunkIndex(rng.u32(..40)));
    }
    let lease = leases.get(rng.usize(..leases.len().max(1)));
    let token = lease.map_or(LeaseToken { epoch: 9, counter: 1 }, |lease| lease.token);
    let lease_swarm = lease.map_or(swarm.clone(), |lease| lease.swarm.clone());
    match rng.u8(..12) {
        0 | 1 => {
            let held = if rng.u8(..9) == 0 { Held::Complete } else { Held::Some(held) };
            NodeMessage::Join(vec![Membership {
                swarm,
                held,
                wants: rng.u8(..5) > 0,
                may_lease: rng.bool(),
                shareable: rng.bool(),
            }])
        }
        2 if rng.bool() => NodeMessage::Leave(vec![swarm]),
        3 => NodeMessage::Reported,
        4..=6 => {
            let index = lease.map_or(index, |lease| ChunkIndex(rng.u32(lease.chunks.clone())));
            let value = truth(&swarm, index.0);
            let entry = Entry { swarm: lease_swarm.clone(), index, value, token, signer: from };
            let entries = vec![SignedEntry::new(entry, [0; 64])];
            NodeMessage::Progress { swarm: lease_swarm, token, entries }
        }
        7 => {
            let why = [
                LeaseFailure::Refused,
                LeaseFailure::Unreachable,
                LeaseFailure::Abandoned,
                LeaseFailure::Throttled(world::secs(1)),
            ][rng.usize(..4)];
            NodeMessage::Return { swarm: lease_swarm, token, why }
        }
        8 if rng.u8(..4) == 0 => {
            let attestation = Attestation { swarm, root: [rng.u8(..2); 32], signer: from };
            NodeMessage::Complete(SignedAttestation { attestation, signature: [0; 64] })
        }
        9 if rng.u8(..4) == 0 => NodeMessage::Mismatch(swarm),
        _ => NodeMessage::Starved { swarm, chunks: vec![index] },
    }
}

fn run(seed: u64) {
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let swarms = [blob(1, 40 * MIB), blob(2, 0), blob(3, 100), blob(1, 30 * MIB)];
    let mut tracker = TrackerMachine::new(config(), 9, seed);
    let mut now = Time::ZERO;
    let mut leases: BTreeMap<NodeId, Vec<Lease>> = BTreeMap::new();
    for _ in 0..800 {
        now += world::ms(rng.u64(..60));
        let number = rng.u8(..10);
        let node = NodeId::from_bytes([number; 32]);
        let event = match rng.u8(..12) {
            0 => {
                let place = Place { zone: ["a", "b"][usize::from(number % 2)].into(), rack: "".into() };
                leases.remove(&node);
                TrackerEvent::Connected(PeerInfo { node, addresses: vec![], place })
            }
            1 if rng.u8(..4) == 0 => TrackerEvent::Disconnected(node),
            2 => TrackerEvent::Tick,
            _ => {
                let mut swarm = swarms[rng.usize(..4)].clone();
                swarm.round = rng.u32(..6) / 4;
                let known = leases.get(&node).cloned().unwrap_or_default();
                TrackerEvent::Message { from: node, message: message(&mut rng, node, swarm, &known) }
            }
        };
        tracker.handle(now, event);
        while let Some(TrackerAction::Send { to, message }) = tracker.poll_action() {
            match message {
                TrackerMessage::Lease(lease) => {
                    assert!(
                        !lease.chunks.is_empty() && lease.chunks.end <= chunks(&lease.swarm),
                        "seed {seed}"
                    );
                    assert!(lease.chunks.len() <= 8, "seed {seed}");
                    if let LeaseKind::Zone(source) = &lease.kind {
                        let near = source.node.as_bytes()[0] % 2 == to.as_bytes()[0] % 2;
                        assert!(!near, "seed {seed}: a zone lease within a zone");
                    }
                    leases.entry(to).or_default().push(lease);
                }
                TrackerMessage::Neighbours { peers, .. } => {
                    assert!(peers.iter().all(|peer| peer.node != to), "seed {seed}: its own neighbour");
                }
                _ => {}
            }
        }
        let snapshot = tracker.snapshot();
        assert!(snapshot.origin_leases <= 32, "seed {seed}");
        assert!(snapshot.swarms.iter().all(|swarm| swarm.origin_leases <= 8), "seed {seed}");
        assert!(snapshot.swarms.iter().all(|swarm| swarm.members > 0), "seed {seed}: an empty swarm is kept");
    }
}

#[test]
fn random_events_never_break_the_tracker_machine() {
    (0..300).for_each(run);
}
