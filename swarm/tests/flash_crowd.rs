//! A crowd gets a blob near the bound of the links, and the origin sends each byte once.
mod world;
use world::*;

use shoal_swarm::peer::PeerConfig;

#[test]
fn two_hundred_nodes_finish_near_the_bound_and_the_origin_sends_each_byte_once() {
    let mut world = World::new(1, 200);
    world.run_for(ms(200));
    let swarm = blob(1, 300 * MIB);
    let start = world.now;
    world.join_all(&swarm);
    let last = world.run_until_complete(&swarm, secs(60));
    let took = World::at_secs(last) - World::at_secs(start);
    let first = world.nodes.iter().map(|sim| sim.first_chunk.unwrap()).max().unwrap();
    let first = World::at_secs(first) - World::at_secs(start);
    println!(
        "took {took:.2} s of 3.0 s, first chunk after {first:.2} s, wasted {:.4}, messages {}",
        world.wasted_share(),
        world.tracker_messages
    );
    assert_eq!(world.egress(&swarm), 1.0);
    assert!(took < 3.0 * 1.35, "took {took}");
    assert!(first < 1.0, "first chunk at the last node after {first}");
    assert!(world.wasted_share() < 0.02, "wasted {}", world.wasted_share());
    assert_eq!(world.double_grants, 0);
    let slots = PeerConfig::default().uploads_when_slow;
    assert!(world.nodes.iter().all(|sim| sim.peak_uploads <= slots));
    assert!(
        world.nodes.iter().map(|sim| sim.busy).sum::<u32>() > 0,
        "nobody was ever busy: slots are not tested"
    );
}
