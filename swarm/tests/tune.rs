mod world;
use shoal_swarm::peer::PeerConfig;
use world::*;
fn env(name: &str, default: usize) -> usize { std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default) }
#[test]
#[ignore]
fn tune() {
    let mut world = World::in_zones(env("SEED", 1) as u64, 0, &[""]);
    let d = PeerConfig::default();
    for _ in 0..env("N", 100) {
        let c = PeerConfig { window: env("WINDOW", d.window), reader_ahead: env("AHEAD", d.reader_ahead), per_neighbour: env("PER", d.per_neighbour), downloads: env("DOWN", 4), uploads: env("UP", 4), have_delay: ms(env("HAVE", 5) as u64), ..d.clone() };
        world.add("", c);
    }
    world.start_tracker();
    world.run_for(ms(200));
    let swarm = blob(1, 300 * MIB);
    let start = world.now;
    world.join_all(&swarm);
    let last = world.run_until_complete(&swarm, secs(60));
    let took = World::at_secs(last) - World::at_secs(start);
    let mut done: Vec<f64> = world.nodes.iter().map(|n| World::at_secs(n.complete[&swarm]) - World::at_secs(start)).collect();
    done.sort_by(f64::total_cmp);
    let leased = world.origin_done.unwrap();
    println!("RESULT took {took:.2} p50 {:.2} origin done {:.2} busy {} wasted {:.4}", done[done.len()/2], World::at_secs(leased)-World::at_secs(start), world.nodes.iter().map(|s| s.busy).sum::<u32>(), world.wasted_share());
}
