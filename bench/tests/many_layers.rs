//! Images of many layers on slow lines: as between real nodes at 50 Mbit/s.
//!
//! A limit is the highest of 20 seeds and 2 to 3 %: whatever changes in the machines draws all chance anew.
// Tests may fail loudly.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod simulation;

use shoal_bench::sim::Scenario;
use simulation::*;

const CLUSTER: &str = "--nodes 16 --link 47.8mbit --origin-link 48.3mbit --origin-latency 30ms --chunk-cost 18ms \
    --arrival 300ms";

/// Whether queues are full, which a message waits behind, or empty.
const LATENCIES: [&str; 2] = ["--latency 25ms", "--latency 1ms"];

fn finishes_near_the_bound(layers: &str, most: f64) {
    for latency in LATENCIES {
        seeds(Scenario::FlashCrowd, &format!("{CLUSTER} {latency} --layers {layers}"), |outcome| {
            assert_eq!(origin(outcome), 1.0);
            assert!(outcome.mode.ratio.unwrap() < most, "{:?}", outcome.mode.ratio);
        });
    }
}

#[test]
fn forty_small_layers() {
    // 1.35.
    finishes_near_the_bound("40x50KiB..4MiB", 1.39);
}

#[test]
fn thirty_two_layers_of_a_few_chunks() {
    // 1.23.
    finishes_near_the_bound("32x4MiB", 1.26);
}

#[test]
fn eight_layers_of_many_chunks() {
    // 1.18.
    finishes_near_the_bound("8x16MiB", 1.21);
}
