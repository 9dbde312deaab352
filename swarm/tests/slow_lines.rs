//! Large chunks over slow lines.
mod world;
use world::*;

#[test]
fn large_chunks_come_over_a_slow_line() {
    let mut world = World::new(110, 1);
    world.run_for(ms(200));
    // More than 8 GiB: chunks of 16 MiB.
    let swarm = blob(1, 8200 * MIB);
    world.join_all(&swarm);
    world.run_until_complete(&swarm, secs(600));
    world.origin_is_down = true;
    let slow = world.add("", Default::default());
    // 5 Mbit/s.
    world.nodes[slow].down = 625_000.0;
    let start = world.now;
    world.join(slow, &swarm);
    let took = World::at_secs(world.run_until_complete(&swarm, secs(6 * 3600))) - World::at_secs(start);
    let bound = 8200.0 * MIB as f64 / 625_000.0;
    assert!(took < bound * 1.1, "took {took} s of {bound} s");
    assert_eq!(world.egress(&swarm), 1.0);
}
