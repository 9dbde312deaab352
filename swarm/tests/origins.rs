//! Origins that refuse, throttle, or are down; nodes that may not ask them.
// Tests may fail loudly.
#![allow(clippy::indexing_slicing, clippy::unwrap_used)]

mod world;
use world::*;

#[test]
fn a_throttled_origin_is_left_alone_by_all() {
    let mut world = World::new(20, 10);
    world.run_for(ms(200));
    world.origin_throttled_until = world.now + secs(5);
    let swarm = blob(1, 50 * MIB);
    world.join_all(&swarm);
    world.run_until_complete(&swarm, secs(60));
    // Those who were given leases at the same moment, and nobody after.
    assert!(world.origin_requests_while_throttled <= 13, "{}", world.origin_requests_while_throttled);
    assert_eq!(world.egress(&swarm), 1.0);
}

#[test]
fn a_node_that_the_origin_refuses_is_not_asked_again_and_gets_all_from_peers() {
    let mut world = World::new(21, 6);
    world.run_for(ms(200));
    world.refused.insert(0);
    let swarm = blob(1, 50 * MIB);
    world.join_all(&swarm);
    world.run_until_complete(&swarm, secs(60));
    assert_eq!(world.egress(&swarm), 1.0);
}

#[test]
fn nodes_that_may_not_read_the_origin_get_all_from_peers() {
    let mut world = World::new(22, 20);
    for node in 1..20 {
        world.nodes[node].may_lease = false;
    }
    world.run_for(ms(200));
    let swarm = blob(1, 50 * MIB);
    world.join_all(&swarm);
    world.run_until_complete(&swarm, secs(60));
    assert_eq!(world.egress(&swarm), 1.0);
}

#[test]
fn an_origin_that_comes_back_is_asked_again() {
    let mut world = World::new(23, 6);
    world.run_for(ms(200));
    world.origin_is_down = true;
    let swarm = blob(1, 50 * MIB);
    world.join_all(&swarm);
    world.run_for(secs(20));
    world.origin_is_down = false;
    world.run_until_complete(&swarm, secs(60));
    assert_eq!(world.egress(&swarm), 1.0);
}

#[test]
fn what_an_origin_without_range_sends_beyond_a_lease_is_kept() {
    let mut world = World::new(24, 10);
    world.run_for(ms(200));
    world.origin_sends_all = true;
    let swarm = blob(1, 200 * MIB);
    world.join_all(&swarm);
    world.run_until_complete(&swarm, secs(60));
    // Several begin at the same moment, and all but one stop as soon as it is seen that each would get all.
    assert!(world.egress(&swarm) < 1.1, "egress {}", world.egress(&swarm));
    assert_eq!(world.double_grants, 0);
}
