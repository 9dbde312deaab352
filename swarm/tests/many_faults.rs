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
#[ignore = "fails: chunks held only by members that stall or lie can stay out of reach"]
fn every_honest_node_finishes_whatever_happens_around_it() {
    (101..130).step_by(2).for_each(run);
}

#[test]
#[ignore = "fails: chunks held only by members that stall or lie can stay out of reach"]
fn every_honest_node_finishes_in_two_zones_as_well() {
    (100..130).step_by(2).for_each(run);
}

#[test]
#[ignore]
fn survey() {
    let from: u64 = std::env::var("FROM").map_or(100, |s| s.parse().unwrap());
    let to: u64 = std::env::var("TO").map_or(130, |s| s.parse().unwrap());
    for seed in from..to {
        let start = std::time::Instant::now();
        let done = std::panic::catch_unwind(|| run(seed));
        let why =
            done.err().map(|e| e.downcast_ref::<String>().map(|s| s.chars().take(60).collect::<String>()));
        eprintln!("{seed} {:?} {:?}", why, start.elapsed());
    }
}
