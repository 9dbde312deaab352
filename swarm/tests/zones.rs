//! Each chunk crosses into a zone once.
mod world;
use world::*;

#[test]
fn each_chunk_crosses_into_each_other_zone_once() {
    let zones = ["a", "b", "c", "d"];
    let mut world = World::in_zones(7, 60, &zones);
    world.start_tracker();
    world.run_for(ms(200));
    let swarm = blob(1, 100 * MIB);
    world.join_all(&swarm);
    world.run_until_complete(&swarm, secs(60));
    let crossed: u64 = world.nodes.iter().map(|sim| sim.from_other_zones).sum();
    assert!(crossed <= 3 * u64::from(chunks(&swarm)) + 10, "crossed {crossed}");
    assert_eq!(world.egress(&swarm), 1.0);
    assert_eq!(world.double_grants, 0);
}

#[test]
fn zones_cost_a_large_crowd_little_time() {
    let took = |zones: &[&str]| {
        let mut world = World::in_zones(11, 240, zones);
        world.start_tracker();
        world.run_for(ms(200));
        let swarm = blob(1, 32 * MIB);
        let start = world.now;
        world.join_all(&swarm);
        World::at_secs(world.run_until_complete(&swarm, secs(60))) - World::at_secs(start)
    };
    let (one, four) = (took(&["a"]), took(&["a", "b", "c", "d"]));
    // All of it is read by few, on whom all other zones wait at first.
    assert!(four < 1.5 * one, "{four} s in four zones, {one} s in one");
}

#[test]
fn a_zone_whose_bringer_dies_still_gets_all() {
    let mut world = World::in_zones(8, 12, &["a", "b"]);
    world.start_tracker();
    world.run_for(ms(200));
    let swarm = blob(1, 60 * MIB);
    world.join_all(&swarm);
    world.run_for(ms(300));
    world.kill(1);
    world.kill(3);
    world.run_until_complete(&swarm, secs(60));
}

#[test]
fn without_a_tracker_zones_help_each_other_after_a_while() {
    let mut world = World::in_zones(9, 12, &["a", "b"]);
    world.start_tracker();
    world.run_for(ms(200));
    let swarm = blob(1, 100 * MIB);
    // Zone a has all of it, zone b begins.
    (0..12).step_by(2).for_each(|node| world.join(node, &swarm));
    world.run_for(secs(10));
    (1..12).step_by(2).for_each(|node| world.join(node, &swarm));
    world.run_for(ms(200));
    world.kill_tracker();
    world.run_until_complete(&swarm, secs(60));
    assert_eq!(world.egress(&swarm), 1.0);
}
