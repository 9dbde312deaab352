//! Members and origins that lie.
// Tests may fail loudly.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod world;
use world::*;

use shoal_swarm::peer::FailReason;

#[test]
fn a_peer_that_sends_wrong_bytes_is_shunned_and_spoils_nothing() {
    let mut world = World::new(30, 30);
    world.run_for(ms(200));
    world.nodes[0].manner = Manner::SendsWrongBytes;
    let swarm = blob(1, 100 * MIB);
    world.join_all(&swarm);
    world.run_until_complete(&swarm, secs(60));
    let liar = world.nodes[0].info.node;
    assert!(world.nodes.iter().any(|sim| sim.shunned.contains(&liar)));
    assert!(world.nodes.iter().all(|sim| sim.mismatches <= 6), "asked again and again");
}

#[test]
fn a_lease_holder_that_signs_wrong_bytes_is_found_out_and_all_finish() {
    for seed in 31..36 {
        let mut world = World::new(seed, 30);
        world.run_for(ms(200));
        world.nodes[0].manner = Manner::LiesUnderLease;
        let swarm = blob(1, 200 * MIB);
        world.join(0, &swarm);
        world.run_for(ms(20));
        world.join_all(&swarm);
        // Whoever lied is not among those who finish.
        world.nodes[0].complete.insert(swarm.clone(), world.now);
        world.run_until_complete(&swarm, secs(60));
        let liar = world.nodes[0].info.node;
        let shunned = world.tracker.as_ref().unwrap().snapshot().shunned;
        assert_eq!(shunned, [liar], "seed {seed}");
        let honest_shunned = world.nodes.iter().flat_map(|sim| &sim.shunned).any(|node| *node != liar);
        assert!(!honest_shunned, "seed {seed}: an honest node was shunned");
        assert!(world.nodes[1..].iter().all(|sim| sim.shunned.contains(&liar)), "seed {seed}");
    }
}

#[test]
fn an_origin_whose_bytes_have_another_digest_fails_the_pull_after_few_readings() {
    let mut world = World::new(36, 10);
    world.run_for(ms(200));
    world.origin_lies = true;
    let swarm = blob(1, 30 * MIB);
    world.join_all(&swarm);
    world.run_for(secs(40));
    for sim in &world.nodes {
        assert_eq!(sim.failed.get(&swarm), Some(&FailReason::WrongBytes));
        assert!(sim.shunned.is_empty(), "nobody lied but the origin");
    }
    assert!(world.egress(&swarm) <= 3.0, "egress {}", world.egress(&swarm));
}

#[test]
fn a_hostile_swarm_of_a_popular_digest_does_not_disturb_the_right_one() {
    let mut world = World::new(37, 20);
    world.run_for(ms(200));
    let right = blob(1, 100 * MIB);
    let hostile = from_origin("evil.test", &blob(1, 77 * MIB));
    for node in 0..20 {
        world.join(node, if node < 10 { &right } else { &hostile });
    }
    for node in 10..20 {
        world.nodes[node].complete.insert(right.clone(), world.now);
    }
    world.run_until_complete(&right, secs(60));
    assert!(world.nodes.iter().all(|sim| sim.shunned.is_empty()));
}

#[test]
fn a_complete_node_serves_the_same_bytes_whatever_the_origin() {
    let mut world = World::new(38, 6);
    world.run_for(ms(200));
    let first = blob(1, 50 * MIB);
    let second = from_origin("mirror.test", &first);
    (0..3).for_each(|node| world.join(node, &first));
    world.run_for(secs(10));
    (3..6).for_each(|node| world.join(node, &second));
    world.run_for(secs(10));
    assert!((3..6).all(|node| world.nodes[node].complete.contains_key(&second)));
    assert_eq!(world.egress(&first), 1.0);
}
