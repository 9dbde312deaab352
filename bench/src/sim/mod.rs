//! The simulator: a whole cluster in virtual time, run by the peer and tracker machines of production.
//!
//! What is simulated: links and how flows share them ([`flows`]), latency, handshakes, request round trips, the
//! origin's answers, what a node needs to check a chunk and the scheduler to answer. What is not: packets, loss, disks,
//! processors that are shared with other work. Chunks are stood for by what they hash to, signatures are
//! dummies.
//!
//! A run is a pure function of its arguments: all chance comes from the seed.
#![allow(
    clippy::indexing_slicing,
    reason = "numbers of nodes, links, flows and blobs are given out here and never leave; a wrong one should stop a run"
)]

mod actions;
mod arguments;
mod event;
mod flows;
mod image;
mod lease_watch;
mod meter;
mod node;
mod origin;
mod outcome;
mod peers;
mod queue;
mod run;
mod scenario;
mod topology;
mod tracker;
mod world;

use std::time::Instant;

pub use arguments::{Rule, Scenario, SimArguments};
pub use outcome::Outcome;

pub use world::Tuning;

use crate::report::{Kind, Report};
use outcome::memory;

/// Why there is no report.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SimError {
    #[error("the image cannot be simulated: {0}")]
    Image(#[from] shoal_proto::LayoutError),
}

/// Runs all scenarios that were asked for, one after another. What Shoal must never do and did, the report tells with
/// the command that repeats it.
pub fn run(arguments: &SimArguments) -> Result<Report, SimError> {
    let mut report = Report {
        kind: Kind::Sim,
        command: arguments.command(),
        settings: arguments.settings(),
        facts: Vec::new(),
        notes: Vec::new(),
        broken: Vec::new(),
        modes: Vec::new(),
    };
    for scenario in &arguments.scenario {
        let began = Instant::now();
        let outcome = simulate(arguments, *scenario, Tuning::default())?;
        let took = began.elapsed().as_secs_f64();
        let name = scenario.name();
        let violations = outcome.violations.iter().map(|what| format!("{name}: {what}"));
        if !arguments.without.is_empty() {
            report.notes.extend(violations);
        } else if !outcome.violations.is_empty() {
            let again = SimArguments { scenario: vec![*scenario], ..arguments.clone() };
            report.broken.extend(violations);
            report.broken.push(format!("{name}: run it again with: {}", again.command()));
        }
        report.facts.extend(outcome.notes.into_iter().map(|note| (name.clone(), note)));
        let (events, per_second) = (outcome.events, crate::rate::to_f64(outcome.events) / took);
        let speed = format!("simulated in {took:.1} s, {events} events, {per_second:.0} events/s");
        report.facts.push((name, speed));
        report.modes.push(outcome.mode);
    }
    if let Some(bytes) = memory() {
        report.facts.push(("memory of the simulator, most".into(), bytesize::ByteSize(bytes).to_string()));
    }
    Ok(report)
}

/// Runs one scenario.
pub fn simulate(arguments: &SimArguments, scenario: Scenario, tuning: Tuning) -> Result<Outcome, SimError> {
    let image = scenario.image(arguments)?;
    let mut world = world::World::new(arguments, tuning, image);
    let bound = world.set_up(scenario);
    Ok(world.conclude(scenario, bound))
}
