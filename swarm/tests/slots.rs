//! Who is sent chunks at once, who is told BUSY, and how those learn of a free slot.
// Tests may fail loudly.
#![allow(clippy::panic, clippy::unwrap_used)]

mod world;
use world::*;

use shoal_proto::message::{
    ChunkRequest, Held, NodeMessage, PeerInfo, PeerMessage, Place, Proof, TrackerMessage,
};
use shoal_proto::{ChunkIndex, ChunkSet, Entry, LeaseToken, NodeId, SignedEntry, SwarmId};
use shoal_swarm::Time;
use shoal_swarm::peer::{Admission, FetchOutcome, PeerAction, PeerConfig, PeerEvent, PeerMachine};

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

/// A node that has these chunks of a blob and wants the rest.
fn machine(swarm: &SwarmId, held: ChunkSet) -> PeerMachine {
    let info = PeerInfo { node: node(100), addresses: vec![], place: Place::default() };
    let mut machine = PeerMachine::new(info, PeerConfig::default(), 1);
    let proof = Some(Proof::Entries(entries(swarm, &held)));
    let (swarm, held) = (swarm.clone(), Held::Some(held));
    machine.handle(Time::ZERO, PeerEvent::Join { swarm, held, proof, wants: true, may_lease: false });
    machine
}

fn entries(swarm: &SwarmId, held: &ChunkSet) -> Vec<SignedEntry> {
    let entry = |index: ChunkIndex| {
        let (value, token) = (truth(swarm, index.0), LeaseToken { epoch: 1, counter: 1 });
        SignedEntry::new(Entry { swarm: swarm.clone(), index, value, token, signer: node(99) }, [0; 64])
    };
    held.iter().map(entry).collect()
}

fn told_free(machine: &mut PeerMachine) -> Vec<NodeId> {
    let actions = std::iter::from_fn(|| machine.poll_action());
    let free = actions.filter_map(|action| match action {
        PeerAction::ToPeer { to, message: PeerMessage::Free } => Some(to),
        _ => None,
    });
    free.collect()
}

#[test]
fn a_free_slot_is_offered_to_those_that_were_turned_away_first_and_are_still_there() {
    let swarm = blob(1, 4 * CHUNK);
    let mut machine = machine(&swarm, ChunkSet::full(4));
    let request = ChunkRequest { swarm, index: ChunkIndex(0) };
    (1..=9).for_each(|number| machine.handle(Time::ZERO, PeerEvent::LinkUp(node(number))));
    for number in 1..=4 {
        let admitted = machine.admit(Time::ZERO, node(number), &request);
        assert!(matches!(admitted, Admission::Serve { .. }), "{admitted:?}");
    }
    for number in [5, 6, 5, 7, 8, 9] {
        assert_eq!(machine.admit(Time::ZERO, node(number), &request), Admission::Busy);
    }
    assert_eq!(told_free(&mut machine), []);
    machine.handle(Time::ZERO, PeerEvent::LinkDown(node(6)));
    machine.handle(Time::ZERO, PeerEvent::UploadEnded { to: node(1) });
    assert_eq!(told_free(&mut machine), [node(5)], "6 is gone");
    machine.handle(Time::ZERO, PeerEvent::UploadEnded { to: node(2) });
    assert_eq!(told_free(&mut machine), [node(7), node(8)]);
    // Who came by itself meanwhile is not offered what it has.
    assert!(matches!(machine.admit(Time::ZERO, node(9), &request), Admission::Serve { .. }));
    machine.handle(Time::ZERO, PeerEvent::UploadEnded { to: node(3) });
    assert_eq!(told_free(&mut machine), []);
}

/// What the machine asks its neighbours for now.
fn asked(machine: &mut PeerMachine) -> Vec<(u64, NodeId)> {
    let actions = std::iter::from_fn(|| machine.poll_action());
    let fetches = actions.filter_map(|action| match action {
        PeerAction::Fetch { request, from, .. } => Some((request, from)),
        _ => None,
    });
    fetches.collect()
}

/// This node comes and has the whole blob.
fn offer_all(machine: &mut PeerMachine, swarm: &SwarmId, number: u8) {
    machine.handle(Time::ZERO, PeerEvent::LinkUp(node(number)));
    let held = ChunkSet::full(chunks(swarm));
    let proof = Proof::Entries(entries(swarm, &held));
    let message = PeerMessage::State { swarm: swarm.clone(), held: Held::Some(held), proof };
    machine.handle(Time::ZERO, PeerEvent::Peer { from: node(number), message });
}

/// A node whose only neighbours are two that have the one chunk; both were asked and said BUSY.
fn turned_away(swarm: &SwarmId) -> PeerMachine {
    let mut machine = machine(swarm, ChunkSet::empty(1));
    (1..=2).for_each(|number| offer_all(&mut machine, swarm, number));
    for _ in 0..2 {
        let [(request, _)] = asked(&mut machine)[..] else { panic!("one chunk is missing") };
        machine.handle(Time::ZERO, PeerEvent::Fetched { request, outcome: FetchOutcome::Busy });
    }
    machine
}

#[test]
fn who_says_that_it_has_a_slot_again_is_asked_at_once_and_not_for_ever() {
    let swarm = blob(1, CHUNK);
    let mut machine = turned_away(&swarm);
    assert_eq!(asked(&mut machine), [], "both are busy");
    let free = || PeerEvent::Peer { from: node(2), message: PeerMessage::Free };
    machine.handle(Time::ZERO, free());
    let [(request, from)] = asked(&mut machine)[..] else { panic!("2 has a slot") };
    assert_eq!(from, node(2));
    machine.handle(Time::ZERO, free());
    assert_eq!(asked(&mut machine), [], "it is being asked");
    machine.handle(Time::ZERO, PeerEvent::Fetched { request, outcome: FetchOutcome::Busy });
    assert_eq!(asked(&mut machine), [], "busy again");
}

#[test]
fn who_hears_nothing_asks_again_by_itself() {
    let mut machine = turned_away(&blob(1, CHUNK));
    assert_eq!(asked(&mut machine), []);
    while let Some(at) = machine.next_timeout().filter(|at| *at <= Time::ZERO + secs(2)) {
        machine.handle(at, PeerEvent::Tick);
        if !asked(&mut machine).is_empty() {
            return;
        }
    }
    panic!("nobody was asked again");
}

#[test]
fn a_second_request_that_dies_with_its_link_is_not_counted_as_a_duplicate() {
    let swarm = blob(1, 4 * CHUNK);
    let mut machine = machine(&swarm, ChunkSet::empty(4));
    (1..=40).for_each(|number| offer_all(&mut machine, &swarm, number));
    // The first asked for each chunk neither send nor break.
    let silent = asked(&mut machine);
    assert_eq!(silent.len(), 4);
    let mut seconds = 0;
    while let Some(at) = machine.next_timeout().filter(|at| *at < Time::ZERO + secs(7)) {
        machine.handle(at, PeerEvent::Tick);
        for (_, from) in asked(&mut machine) {
            seconds += 1;
            machine.handle(at, PeerEvent::LinkDown(from));
        }
    }
    assert!(seconds > 8, "only {seconds} others were asked");
}

#[test]
fn a_neighbour_that_is_always_busy_is_soon_not_counted_on() {
    let swarm = blob(1, CHUNK);
    let mut machine = machine(&swarm, ChunkSet::empty(1));
    machine.handle(Time::ZERO, PeerEvent::TrackerUp);
    offer_all(&mut machine, &swarm, 1);
    let mut now = Time::ZERO;
    let mut starving = None;
    while starving.is_none() && now < Time::ZERO + secs(30) {
        while let Some(action) = machine.poll_action() {
            match action {
                PeerAction::Fetch { request, .. } => {
                    machine.handle(now, PeerEvent::Fetched { request, outcome: FetchOutcome::Busy });
                }
                PeerAction::ToTracker(NodeMessage::Starved { .. }) => starving = Some(now),
                _ => {}
            }
        }
        now = machine.next_timeout().unwrap();
        machine.handle(now, PeerEvent::Tick);
    }
    // It was asked again for four seconds; then two looks, a second apart.
    assert!(starving.is_some_and(|at| at < Time::ZERO + secs(10)), "{starving:?}");
}

#[test]
fn a_link_that_stands_outlives_an_attempt_to_make_it() {
    let swarm = blob(1, 8 * CHUNK);
    let mut machine = machine(&swarm, ChunkSet::empty(8));
    let info = PeerInfo { node: node(1), addresses: vec![], place: Place::default() };
    let neighbours = TrackerMessage::Neighbours { swarm: swarm.clone(), peers: vec![info] };
    machine.handle(Time::ZERO, PeerEvent::TrackerUp);
    machine.handle(Time::ZERO, PeerEvent::Tracker(neighbours));
    let all = ChunkSet::full(8);
    let has_all = |from: NodeId| {
        let (held, proof) = (Held::Some(all.clone()), Proof::Entries(entries(&swarm, &all)));
        PeerEvent::Peer { from, message: PeerMessage::State { swarm: swarm.clone(), held, proof } }
    };
    // It called too and was faster.
    machine.handle(Time::ZERO, PeerEvent::LinkUp(node(1)));
    machine.handle(Time::ZERO, has_all(node(1)));
    let first = asked(&mut machine).len();
    assert!(first > 0);
    (0..3).for_each(|_| machine.handle(Time::ZERO, PeerEvent::ConnectFailed(node(1))));
    let snapshot = machine.snapshot();
    assert_eq!((snapshot.links, snapshot.downloads), (1, first));
}
