//! Images of many layers, which all nodes want at once.
mod world;
use world::*;

/// 50 Mbit/s.
const SLOW: f64 = 6.0 * 1e6;

#[test]
fn layers_that_share_a_slow_line_are_read_once_though_all_neighbours_are_busy() {
    for seed in 1..=3 {
        let mut world = World::new(seed, 16);
        world.origin_up = SLOW;
        for sim in &mut world.nodes {
            (sim.up, sim.down) = (SLOW, SLOW);
        }
        world.run_for(ms(200));
        let layers: Vec<_> = (1..=24).map(|name| blob(name, 3 * MIB + 5000)).collect();
        layers.iter().for_each(|swarm| world.join_all(swarm));
        for swarm in &layers {
            world.run_until_complete(swarm, secs(60));
        }
        for swarm in &layers {
            assert_eq!(world.egress(swarm), 1.0, "seed {seed}, {:?}", swarm.digest);
        }
    }
}
