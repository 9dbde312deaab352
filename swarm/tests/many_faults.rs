//! Deaths, stalls, liars and a tracker that comes back empty, all at once: every living honest node gets the blob.
// Tests may fail loudly.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod world;
use world::*;

fn run(seed: u64) {
    let zones: &[&str] = if seed.is_multiple_of(2) { &["a", "b"] } else { &[""] };
    let mut world = World::in_zones(seed, 24, zones);
    world.start_tracker();
    world.run_for(ms(200));
    let swarm = blob(1, 60 * MIB);
    world.nodes[0].manner = Manner::SendsWrongBytes;
    // Shunned by all, it does not finish.
    world.nodes[0].complete.insert(swarm.clone(), world.now);
    world.nodes[1].manner = Manner::Stalls;
    if seed.is_multiple_of(3) {
        world.nodes[2].manner = Manner::LiesUnderLease;
        world.nodes[2].complete.insert(swarm.clone(), world.now);
    }
    world.join_all(&swarm);
    for victim in 3..7 {
        let wait = world.rng.u64(20..200);
        world.run_for(ms(wait));
        world.kill(victim);
    }
    if seed.is_multiple_of(5) {
        world.kill_tracker();
        world.run_for(ms(300));
        world.start_tracker();
    }
    world.run_until_complete(&swarm, secs(120));
    assert_eq!(world.double_grants, 0, "seed {seed}");
}

#[test]
fn every_honest_node_finishes_whatever_happens_around_it() {
    // In the last one a liar reads again what an honest node had read: only the second claim on these chunks is false.
    (101..130).step_by(2).chain([333]).for_each(run);
}

#[test]
fn every_honest_node_finishes_in_two_zones_as_well() {
    (100..130).step_by(2).for_each(run);
}
