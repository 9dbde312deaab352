//! A seed repeats a run, event for event.
// Tests may fail loudly.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod simulation;

use simulation::*;

#[test]
fn the_same_arguments_give_the_same_run() {
    for scenario in ["churn", "liar", "scheduler-loss"] {
        let line =
            format!("--nodes 80 --size 20MiB --layers 3 --zones 2 --link 100mbit --scenario {scenario}");
        let (first, second) = (outcome(&line), outcome(&line));
        assert_eq!((first.events, first.mode.finish_s), (second.events, second.mode.finish_s));
        let other = outcome(&format!("{line} --seed 2"));
        assert_ne!(first.events, other.events);
    }
}
