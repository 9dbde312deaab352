//! Small blobs, empty ones, and nodes without company.
mod world;
use world::*;

#[test]
fn a_lone_node_reaches_the_origins_full_speed() {
    let mut world = World::new(2, 1);
    world.run_for(ms(200));
    let swarm = blob(1, 200 * MIB);
    let start = world.now;
    world.join(0, &swarm);
    let took = World::at_secs(world.run_until_complete(&swarm, secs(30))) - World::at_secs(start);
    assert_eq!(world.egress(&swarm), 1.0);
    assert!(took < 2.0 * 1.1, "took {took}");
}

#[test]
fn a_blob_of_one_chunk_is_sent_once_and_reaches_all_soon() {
    let mut world = World::new(3, 100);
    world.run_for(ms(200));
    let swarm = blob(1, 3000);
    let start = world.now;
    world.join_all(&swarm);
    let took = World::at_secs(world.run_until_complete(&swarm, secs(10))) - World::at_secs(start);
    assert_eq!(world.egress(&swarm), 1.0);
    assert!(took < 0.5, "took {took}");
}

#[test]
fn an_empty_blob_is_whole_at_once() {
    let mut world = World::new(4, 3);
    let swarm = blob(1, 0);
    world.join_all(&swarm);
    world.run_until_complete(&swarm, secs(1));
    assert!(world.origin_chunks.is_empty());
}

#[test]
fn a_late_node_gets_all_from_peers() {
    let mut world = World::new(5, 8);
    world.run_for(ms(200));
    let swarm = blob(1, 50 * MIB);
    world.join_all(&swarm);
    world.run_until_complete(&swarm, secs(20));
    let late = world.add("", Default::default());
    world.join(late, &swarm);
    world.run_until_complete(&swarm, secs(20));
    assert_eq!(world.egress(&swarm), 1.0);
}

#[test]
fn layers_of_an_image_progress_together_and_small_ones_first() {
    let mut world = World::new(6, 10);
    world.run_for(ms(200));
    let blobs = [blob(1, 100 * MIB), blob(2, 100 * MIB), blob(3, 2000)];
    for swarm in &blobs {
        world.join_all(swarm);
    }
    let small = world.run_until_complete(&blobs[2], secs(30));
    let one = world.run_until_complete(&blobs[0], secs(30));
    let two = world.run_until_complete(&blobs[1], secs(30));
    assert!(World::at_secs(small) < 0.7, "the small one took until {small:?}");
    let (one, two) = (World::at_secs(one), World::at_secs(two));
    assert!((one - two).abs() < 1.0, "{one} and {two}");
    for swarm in &blobs {
        assert_eq!(world.egress(swarm), 1.0);
    }
}
