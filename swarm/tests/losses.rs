//! Members and trackers that die.
// Tests may fail loudly.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod world;
use shoal_proto::ChunkIndex;
use shoal_proto::message::Held;
use shoal_swarm::peer::PeerEvent;
use world::*;

#[test]
fn a_lease_holder_that_dies_is_replaced() {
    for seed in 10..15 {
        let mut world = World::new(seed, 20);
        world.run_for(ms(200));
        let swarm = blob(1, 100 * MIB);
        world.join_all(&swarm);
        world.run_for(ms(300));
        for victim in 0..4 {
            world.kill(victim);
        }
        world.run_until_complete(&swarm, secs(60));
        // What died with its holder is read again, and little else.
        assert!(world.egress(&swarm) < 1.4, "egress {}", world.egress(&swarm));
        assert_eq!(world.double_grants, 0);
    }
}

#[test]
fn transfers_go_on_without_a_tracker_and_nothing_is_read_twice_after() {
    let mut world = World::new(16, 30);
    world.run_for(ms(200));
    let swarm = blob(1, 200 * MIB);
    world.join_all(&swarm);
    world.run_for(ms(600));
    world.kill_tracker();
    let before: u32 = world.nodes.iter().map(|sim| sim.machine.held(&swarm).unwrap().count()).sum();
    world.run_for(secs(1));
    let after: u32 = world.nodes.iter().map(|sim| sim.machine.held(&swarm).unwrap().count()).sum();
    assert!(after > before, "{after} after {before}");
    world.start_tracker();
    world.run_until_complete(&swarm, secs(60));
    assert!(world.egress(&swarm) <= 1.04, "egress {}", world.egress(&swarm));
}

#[test]
fn churn_does_not_stop_the_rest() {
    let mut world = World::new(17, 60);
    world.run_for(ms(200));
    let swarm = blob(1, 150 * MIB);
    world.join_all(&swarm);
    for victim in 0..20 {
        world.run_for(ms(60));
        world.kill(victim * 2);
        let new = world.add("", Default::default());
        world.join(new, &swarm);
    }
    world.run_until_complete(&swarm, secs(120));
    assert!(world.egress(&swarm) < 1.5, "egress {}", world.egress(&swarm));
    assert_eq!(world.double_grants, 0);
}

#[test]
fn a_neighbour_that_stalls_delays_little() {
    let mut world = World::new(18, 20);
    world.run_for(ms(200));
    world.nodes[0].manner = Manner::Stalls;
    world.nodes[1].manner = Manner::Stalls;
    let swarm = blob(1, 100 * MIB);
    let start = world.now;
    // They have chunks to offer, but take no leases: what they alone held would have to be read again.
    world.nodes[0].may_lease = false;
    world.nodes[1].may_lease = false;
    world.join_all(&swarm);
    let took = World::at_secs(world.run_until_complete(&swarm, secs(60))) - World::at_secs(start);
    assert!(took < 6.0, "took {took}");
    assert_eq!(world.egress(&swarm), 1.0);
}

#[test]
fn a_chunk_that_a_whole_blob_loses_waits_for_somebody_who_wants_it() {
    let mut world = World::new(18, 3);
    world.run_for(ms(200));
    let swarm = blob(1, 8 * MIB);
    world.join_all(&swarm);
    world.run_until_complete(&swarm, secs(30));
    let lost = ChunkIndex(3);
    let holds = |world: &World| world.nodes[0].machine.held(&swarm).unwrap().contains(lost);
    world.feed(0, PeerEvent::Lost { swarm: swarm.clone(), chunks: vec![lost] });
    world.run_for(secs(5));
    assert!(!holds(&world), "nobody asked for it");
    let held = Held::Some(world.nodes[0].machine.held(&swarm).unwrap().clone());
    let join = PeerEvent::Join { swarm: swarm.clone(), held, proof: None, wants: true, may_lease: true };
    world.feed(0, join);
    world.run_for(secs(5));
    assert!(holds(&world), "it is repaired");
    assert!(world.egress(&swarm) <= 1.0, "its neighbours have it");
}
