//! Runs the simulator from a command line.
// Each test file uses a part of this.
#![allow(dead_code, unreachable_pub)]

use clap::Parser;
use shoal_bench::sim::{Outcome, Scenario, SimArguments, Tuning, simulate};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    sim: SimArguments,
}

pub fn arguments(line: &str) -> SimArguments {
    Cli::try_parse_from(["sim"].into_iter().chain(line.split_whitespace())).unwrap().sim
}

/// Runs with the first scenario of this command line.
pub fn outcome(line: &str) -> Outcome {
    let arguments = arguments(line);
    let scenario = arguments.scenario[0];
    println!("{}", arguments.command());
    simulate(&arguments, scenario, Tuning::default()).unwrap()
}

/// Of the bytes, those that may come twice or in vain.
const WASTED: f64 = 0.02;

pub fn seeds(scenario: Scenario, line: &str, check: impl Fn(&Outcome)) {
    seeds_wasting(WASTED, scenario, line, check);
}

pub fn seeds_wasting(wasted: f64, scenario: Scenario, line: &str, check: impl Fn(&Outcome)) {
    for seed in 1..=3 {
        let outcome = outcome(&format!("{line} --scenario {} --seed {seed}", scenario.name()));
        println!("ratio {:?}, {:?}", outcome.mode.ratio, outcome.notes);
        assert!(outcome.violations.is_empty(), "{:#?}", outcome.violations);
        assert!(outcome.wasted < wasted, "wasted {}", outcome.wasted);
        check(&outcome);
    }
}

pub fn origin(outcome: &Outcome) -> f64 {
    outcome.mode.origin_bytes as f64 / outcome.mode.new_bytes as f64
}
