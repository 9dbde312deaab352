//! What each rule is for: without it, the invariant or the figure that it stands for fails.
// Tests may fail loudly.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod simulation;

use simulation::*;

const CLUSTER: &str = "--nodes 60 --size 32MiB --link 100mbit";

fn violations(line: &str) -> Vec<String> {
    outcome(line).violations
}

fn tells_of(violations: &[String], what: &str) -> bool {
    violations.iter().any(|violation| violation.contains(what))
}

#[test]
fn without_leases_chunks_are_read_twice() {
    let broken = outcome(&format!("{CLUSTER} --without leases"));
    assert!(tells_of(&broken.violations, "was leased to"), "{:?}", broken.violations);
    assert!(origin(&broken) > 1.05, "{}", origin(&broken));
}

#[test]
fn without_verification_wrong_bytes_are_served() {
    let liar = format!("{CLUSTER} --scenario liar");
    assert!(violations(&liar).is_empty());
    let broken = violations(&format!("{liar} --without verification"));
    assert!(tells_of(&broken, "unverified"), "{broken:?}");
}

#[test]
fn without_zones_chunks_cross_again_and_again() {
    let crossed = |line: &str| {
        let outcome = outcome(line);
        outcome.mode.cross_zone_bytes as f64 / outcome.mode.new_bytes as f64
    };
    let zones = format!("{CLUSTER} --zones 4");
    assert!(crossed(&zones) <= 3.0 * 1.15);
    assert!(crossed(&format!("{zones} --without zones")) > 10.0);
}

#[test]
fn without_lease_order_clients_wait_for_their_first_chunk() {
    // When the first chunk is leased is chance then, so that only several runs tell.
    let waits = |line: &str| {
        let waits = (1..=5).map(|seed| outcome(&format!("{line} --seed {seed}")));
        let shares: Vec<f64> =
            waits.map(|outcome| outcome.first_chunk_last_s.unwrap() / outcome.mode.last_s).collect();
        println!("{shares:?}");
        shares.iter().sum::<f64>() / 5.0
    };
    let (kept, broken) = (waits(CLUSTER), waits(&format!("{CLUSTER} --without lease-order")));
    assert!(kept < 0.3 && broken > 2.0 * kept, "{kept}, without the rule {broken}");
}

#[test]
fn a_run_that_breaks_a_rule_tells_how_to_repeat_it() {
    let mut arguments = arguments("--nodes 3 --size 1MiB --scenario origin-throttled --origin-latency 1000s");
    arguments.silence = std::time::Duration::from_secs(1);
    let report = shoal_bench::sim::run(&arguments).unwrap();
    assert!(!report.is_sound());
    let text = report.to_string();
    assert!(text.contains("BROKEN") && text.contains("3 (3 unfinished)"), "{text}");
    assert!(text.contains("never finished") && text.contains(&arguments.command()), "{text}");
}
