//! What the tracker does with leases, message by message.
// Tests may fail loudly.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod world;
use world::*;

use shoal_proto::message::{
    Held, Lease, LeaseFailure, LeaseKind, Membership, NodeMessage, PeerInfo, Place, TrackerMessage,
};
use shoal_proto::{ChunkIndex, ChunkSet, Entry, NodeId, SignedEntry, SwarmId};
use shoal_swarm::Time;
use shoal_swarm::tracker::{TrackerAction, TrackerConfig, TrackerEvent, TrackerMachine};

/// A tracker, open, whose members all want one blob.
struct Desk {
    tracker: TrackerMachine,
    now: Time,
    swarm: SwarmId,
    leases: Vec<(NodeId, Lease)>,
    revoked: Vec<(NodeId, u64)>,
}

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 32])
}

impl Desk {
    /// All leases are given at once: only one of these tests is about how they begin.
    fn new(seed: u64, members: u8, swarm: SwarmId) -> Self {
        let at_once = TrackerConfig { leases_at_first: usize::MAX, ..config() };
        Self::with(at_once, seed, members, swarm)
    }

    fn with(config: TrackerConfig, seed: u64, members: u8, swarm: SwarmId) -> Self {
        let tracker = TrackerMachine::new(config, 9, seed);
        let mut desk = Self { tracker, now: Time::ZERO, swarm, leases: Vec::new(), revoked: Vec::new() };
        for number in 1..=members {
            let info = PeerInfo { node: node(number), addresses: Vec::new(), place: Place::default() };
            desk.handle(TrackerEvent::Connected(info));
            desk.join(number, true);
            desk.say(number, NodeMessage::Reported);
        }
        desk.tick(secs(1));
        desk
    }

    fn handle(&mut self, event: TrackerEvent) {
        self.tracker.handle(self.now, event);
        while let Some(TrackerAction::Send { to, message }) = self.tracker.poll_action() {
            match message {
                TrackerMessage::Lease(lease) => self.leases.push((to, lease)),
                TrackerMessage::Revoke { token, .. } => self.revoked.push((to, token.counter)),
                _ => {}
            }
        }
    }

    fn tick(&mut self, later: std::time::Duration) {
        self.now += later;
        self.handle(TrackerEvent::Tick);
    }

    fn say(&mut self, from: u8, message: NodeMessage) {
        self.handle(TrackerEvent::Message { from: node(from), message });
    }

    fn join(&mut self, from: u8, may_lease: bool) {
        let held = Held::Some(ChunkSet::empty(chunks(&self.swarm)));
        let membership =
            Membership { swarm: self.swarm.clone(), held, wants: true, may_lease, shareable: false };
        self.say(from, NodeMessage::Join(vec![membership]));
    }

    fn progress(&mut self, lease: &Lease, from: NodeId, chunks: std::ops::Range<u32>) {
        let entries = chunks.map(|chunk| {
            let (index, value) = (ChunkIndex(chunk), truth(&lease.swarm, chunk));
            let entry = Entry { swarm: lease.swarm.clone(), index, value, token: lease.token, signer: from };
            SignedEntry::new(entry, [0; 64])
        });
        let entries = entries.collect();
        let message = NodeMessage::Progress { swarm: lease.swarm.clone(), token: lease.token, entries };
        self.handle(TrackerEvent::Message { from, message });
    }
}

#[test]
fn chunks_beyond_a_lease_count_and_end_the_leases_of_others() {
    let mut desk = Desk::new(1, 6, blob(1, 200 * CHUNK));
    let granted = desk.leases.clone();
    let (reader, lease) = granted[0].clone();
    let end = granted.iter().map(|(_, lease)| lease.chunks.end).max().unwrap();
    desk.progress(&lease, reader, 0..end);
    for (other, lease) in granted.iter().filter(|(other, _)| *other != reader) {
        assert!(desk.revoked.contains(&(*other, lease.token.counter)), "{lease:?}");
    }
    // The rest of the blob, when none of this token's own chunks is left, as well.
    desk.progress(&lease, reader, end..200);
    let snapshot = desk.tracker.snapshot();
    assert_eq!((snapshot.swarms[0].present, snapshot.origin_leases), (200, 0));
    assert_eq!(snapshot.origin_bytes.values().sum::<u64>(), 200 * CHUNK, "counted once each");
}

#[test]
fn a_chunk_that_its_holder_does_not_deliver_is_leased_to_who_misses_it() {
    for seed in 0..20 {
        let mut desk = Desk::new(seed, 12, blob(1, 40 * CHUNK));
        let (first, lease) = desk.leases[0].clone();
        desk.progress(&lease, first, 0..40);
        let before = desk.leases.len();
        let starving = (1..=12).find(|number| node(*number) != first).unwrap();
        let report = NodeMessage::Starved { swarm: desk.swarm.clone(), chunks: vec![ChunkIndex(7)] };
        desk.tick(secs(2));
        // First it is told of the holder; if that does not help, it reads the chunk itself.
        desk.say(starving, report.clone());
        desk.say(starving, report);
        let [(to, lease)] = &desk.leases[before..] else { panic!("seed {seed}: {:?}", desk.leases) };
        assert_eq!((*to, lease.chunks.clone()), (node(starving), 7..8), "seed {seed}");
        assert_eq!(lease.kind, LeaseKind::Origin);
        assert_ne!(lease.token, desk.leases[0].1.token);
    }
}

#[test]
fn a_chunk_leased_again_while_its_first_lease_runs_leaves_no_chunk_behind() {
    let mut desk = Desk::new(3, 3, blob(1, 8 * CHUNK));
    desk.leases.retain(|(_, lease)| lease.chunks.len() > 1);
    let (first, lease) = desk.leases[0].clone();
    let start = lease.chunks.start;
    desk.progress(&lease, first, start..start + 1);
    let starving = (1..=3).find(|number| node(*number) != first).unwrap();
    desk.tick(secs(2));
    for _ in 0..3 {
        let chunks = vec![ChunkIndex(start)];
        desk.say(starving, NodeMessage::Starved { swarm: desk.swarm.clone(), chunks });
    }
    let (second, again) = desk.leases.last().cloned().unwrap();
    assert_eq!(again.chunks, start..start + 1);
    desk.progress(&again, second, start..start + 1);
    // The first holder brings nothing more: what it left is leased anew once its time is over.
    let before = desk.leases.len();
    (0..200).for_each(|_| desk.tick(secs(1)));
    let rest: std::collections::BTreeSet<u32> =
        desk.leases[before..].iter().flat_map(|(_, lease)| lease.chunks.clone()).collect();
    assert!((start + 1..lease.chunks.end).all(|chunk| rest.contains(&chunk)), "{rest:?}");
}

#[test]
fn the_first_chunks_have_the_origins_line_for_themselves() {
    let mut desk = Desk::with(config(), 2, 12, blob(1, 200 * CHUNK));
    let given: Vec<u32> = desk.leases.iter().map(|(_, lease)| lease.chunks.start).collect();
    assert_eq!(given, [0], "{:?}", desk.leases);
    let (first, lease) = desk.leases[0].clone();
    for chunk in 0..4 {
        // As on a slow line.
        desk.now += ms(200);
        desk.progress(&lease, first, chunk..chunk + 1);
    }
    // One more at once with each chunk; the first one has ended.
    let starts: Vec<u32> = desk.leases.iter().map(|(_, lease)| lease.chunks.start).collect();
    assert_eq!(starts, [0, 4, 8, 12, 16, 20], "{:?}", desk.leases);
}

#[test]
fn the_first_of_a_crowd_does_not_get_all_leases() {
    let mut desk = Desk::new(4, 1, blob(1, 400));
    // Another blob, for which the tracker is open already.
    desk.swarm = blob(2, 200 * CHUNK);
    desk.leases.clear();
    desk.join(1, true);
    assert_eq!(desk.leases.len(), 2, "{:?}", desk.leases);
    for number in 2..=3 {
        let info = PeerInfo { node: node(number), addresses: Vec::new(), place: Place::default() };
        desk.handle(TrackerEvent::Connected(info));
        desk.join(number, true);
        desk.say(number, NodeMessage::Reported);
    }
    let holders: Vec<usize> =
        (1..=3).map(|number| desk.leases.iter().filter(|(to, _)| *to == node(number)).count()).collect();
    assert_eq!(holders, [2, 2, 2], "{:?}", desk.leases);
}

#[test]
fn a_lone_node_gets_all_leases_a_moment_later() {
    let mut desk = Desk::new(5, 1, blob(1, 200 * CHUNK));
    desk.tick(secs(1));
    assert_eq!(desk.leases.len(), 6, "{:?}", desk.leases);
}

#[test]
fn a_tiny_blob_does_not_make_the_leases_of_large_ones_short() {
    let mut desk = Desk::new(6, 1, blob(1, 400));
    let (holder, lease) = desk.leases[0].clone();
    desk.now += ms(20);
    desk.progress(&lease, holder, 0..1);
    desk.swarm = blob(2, 200 * CHUNK);
    let before = desk.leases.len();
    desk.join(1, true);
    let unmeasured = secs(6);
    assert_eq!(desk.leases[before].1.lasts, unmeasured, "{:?}", desk.leases[before]);
}

#[test]
fn the_layers_of_an_image_come_over_one_line_and_another_image_over_its_own() {
    let mut desk = Desk::with(config(), 7, 12, blob(1, 3 * CHUNK));
    for layer in 2..=30 {
        desk.swarm = blob(layer, 3 * CHUNK);
        (1..=12).for_each(|number| desk.join(number, true));
    }
    desk.tick(secs(1));
    assert_eq!(desk.leases.len(), 6, "{:?}", desk.leases);
    let (holder, lease) = desk.leases[0].clone();
    desk.progress(&lease, holder, lease.chunks.clone());
    assert_eq!(desk.leases.len(), 7, "the next one when one has ended");
    let before = desk.leases.len();
    let info = PeerInfo { node: node(20), addresses: Vec::new(), place: Place::default() };
    desk.handle(TrackerEvent::Connected(info));
    desk.say(20, NodeMessage::Reported);
    for layer in 101..=103 {
        desk.swarm = blob(layer, 3 * CHUNK);
        desk.join(20, true);
    }
    assert_eq!(desk.leases.len(), before + 3, "{:?}", &desk.leases[before..]);
}

#[test]
fn tiny_layers_do_not_wait_for_each_other() {
    let mut desk = Desk::with(config(), 8, 12, blob(1, 3000));
    for layer in 2..=30 {
        desk.swarm = blob(layer, 3000);
        (1..=12).for_each(|number| desk.join(number, true));
    }
    assert_eq!(desk.leases.len(), 30, "{:?}", desk.leases);
}

#[test]
fn a_chunk_that_came_a_moment_ago_is_not_read_again_for_a_report_that_crossed_its_news() {
    let mut desk = Desk::new(9, 12, blob(1, 40 * CHUNK));
    let (first, lease) = desk.leases[0].clone();
    desk.progress(&lease, first, 0..40);
    let before = desk.leases.len();
    let starving = (1..=12).find(|number| node(*number) != first).unwrap();
    for _ in 0..5 {
        desk.say(starving, NodeMessage::Starved { swarm: desk.swarm.clone(), chunks: vec![ChunkIndex(7)] });
    }
    assert_eq!(desk.leases.len(), before, "{:?}", &desk.leases[before..]);
}

#[test]
fn who_misses_what_nobody_has_read_yet_does_not_have_to_read_all_of_it() {
    let mut desk = Desk::new(10, 12, blob(1, 200 * CHUNK));
    let chunks: Vec<ChunkIndex> = (0..64).map(ChunkIndex).collect();
    desk.say(12, NodeMessage::Starved { swarm: desk.swarm.clone(), chunks });
    for nth in 0..10 {
        desk.now += ms(700);
        let (holder, lease) = desk.leases[nth].clone();
        desk.progress(&lease, holder, lease.chunks.clone());
    }
    let of_it = desk.leases.iter().filter(|(to, _)| *to == node(12)).count();
    assert!(of_it <= 4, "{of_it} of {}: {:?}", desk.leases.len(), desk.leases);
}

fn is_zones(lease: &Lease) -> bool {
    matches!(lease.kind, LeaseKind::Zone(_))
}

#[test]
fn a_zone_gets_its_lease_when_the_first_of_those_that_rest_has_rested() {
    for seed in 0..20 {
        let mut desk = Desk::new(seed, 0, blob(1, CHUNK));
        for (number, zone) in [(1, "a"), (2, "b"), (3, "b")] {
            let place = Place { zone: zone.into(), ..Place::default() };
            desk.handle(TrackerEvent::Connected(PeerInfo {
                node: node(number),
                addresses: Vec::new(),
                place,
            }));
            desk.join(number, zone == "a");
            desk.say(number, NodeMessage::Reported);
        }
        desk.tick(secs(1));
        let (reader, lease) = desk.leases[0].clone();
        desk.progress(&lease, reader, 0..1);
        // The first that it is given to fails each time and rests ever longer, the other is always soon back.
        let worse = desk.leases.last().unwrap().0;
        let mut given = 0;
        for _ in 0..80 {
            for (to, lease) in
                std::mem::take(&mut desk.leases).into_iter().filter(|(_, lease)| is_zones(lease))
            {
                given += usize::from(to != worse);
                let why = if to == worse { LeaseFailure::Unreachable } else { LeaseFailure::Abandoned };
                let message = NodeMessage::Return { swarm: lease.swarm, token: lease.token, why };
                desk.handle(TrackerEvent::Message { from: to, message });
            }
            desk.tick(ms(250));
        }
        assert!(given >= 20, "seed {seed}: in 20 s given {given} times to who rests half a second each time");
    }
}
