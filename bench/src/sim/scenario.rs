//! Scenarios: who pulls when, and what goes wrong meanwhile.

use std::time::Duration;

use shoal_proto::LayoutError;

use super::arguments::{Scenario, SimArguments};
use super::event::Step;
use super::image::Image;
use super::node::{Manner, Number};
use super::queue::Nanos;
use super::topology::{bound, nanos};
use super::world::World;
use crate::rate::to_f64;

/// When the first node is told to pull: every session is open by then.
pub(super) const START: Nanos = 4_000_000_000;
/// A node in so many dies, is slow, or belongs to one wave of an update.
const DYING: u32 = 20;
const SLOW: u32 = 10;
const WAVES: u32 = 10;
/// How long the scheduler is gone.
const SCHEDULER_GONE: Duration = Duration::from_secs(5);
/// How long an origin answers 429.
const THROTTLED: Duration = Duration::from_secs(2);
/// Staggered nodes come over so many times what one alone needs.
const STAGGERED: f64 = 4.0;

impl Scenario {
    /// The image: layers, and which of them are on every node already.
    pub(super) fn image(self, arguments: &SimArguments) -> Result<Image, LayoutError> {
        let sizes = arguments.layers.sizes(arguments.size);
        let origin = "registry.test".parse().map_err(|_| LayoutError(0))?;
        let layers: Vec<(u64, bool)> = match self {
            // Nine tenths of every layer as layers of their own.
            Self::RollingUpdate => sizes
                .iter()
                .flat_map(|size| [(size - size / 10, true), (size / 10, false)])
                .filter(|(size, _)| *size > 0)
                .collect(),
            _ => sizes.into_iter().map(|size| (size, false)).collect(),
        };
        Image::new(&origin, &layers)
    }

    /// What each node's link can do.
    pub(super) fn rates(self, arguments: &SimArguments) -> Vec<f64> {
        let rate = arguments.link.bytes_per_second();
        let slow = |number: u32| self == Self::SlowNodes && number % SLOW == SLOW - 1;
        (0..arguments.nodes).map(|number| if slow(number) { rate / 10.0 } else { rate }).collect()
    }
}

impl World {
    /// Adds nodes and plans what happens to them. Gives the bound, in seconds.
    pub(super) fn set_up(&mut self, scenario: Scenario) -> f64 {
        let rates = scenario.rates(&self.arguments);
        let bytes = self.image.new_bytes();
        for rate in &rates {
            self.add(*rate);
        }
        self.start_tracker();
        let least = bound(&self.arguments, &rates, bytes);
        self.plan_pulls(scenario, least);
        self.plan_faults(scenario, least);
        self.meter.start = START;
        // A hundred samples if all goes as well as can be.
        let every = seconds(least / 100.0).max(1);
        self.meter.every = Some(every);
        self.queue.at(START, super::event::Event::Sample);
        least
    }

    fn plan_pulls(&mut self, scenario: Scenario, least: f64) {
        let nodes: Vec<Number> = (0..self.arguments.nodes).collect();
        match scenario {
            Scenario::RollingUpdate => {
                let part = self.arguments.nodes.div_ceil(WAVES) as usize;
                self.waves = nodes.chunks(part).map(<[Number]>::to_vec).rev().collect();
                // The first wave begins when the sessions are open.
                for number in self.waves.pop().unwrap_or_default() {
                    self.plan(START, Step::Begin(number));
                }
            }
            Scenario::Staggered => {
                let between = STAGGERED * least / to_f64(u64::from(self.arguments.nodes));
                for number in nodes {
                    self.plan(START + seconds(between * f64::from(number)), Step::Begin(number));
                }
            }
            _ => {
                let within = nanos(self.arguments.arrival);
                for number in nodes {
                    let wait = self.rng.u64(..=within);
                    self.plan(START + wait, Step::Begin(number));
                }
            }
        }
    }

    fn plan_faults(&mut self, scenario: Scenario, least: f64) {
        let part = |share: f64| START + seconds(least * share);
        match scenario {
            Scenario::Churn => {
                let mut nodes: Vec<Number> = (0..self.arguments.nodes).collect();
                self.rng.shuffle(&mut nodes);
                for number in nodes.into_iter().take(self.arguments.nodes.div_ceil(DYING) as usize) {
                    let (dies, comes) = (self.rng.f64(), self.rng.f64());
                    self.plan(part(dies), Step::Kill(number));
                    self.plan(part(comes), Step::Arrive);
                }
            }
            Scenario::SchedulerLoss => {
                let gone = part(0.3);
                self.plan(gone, Step::LoseTracker);
                self.plan(gone + nanos(SCHEDULER_GONE), Step::StartTracker);
            }
            Scenario::Liar => {
                let liar = self.rng.usize(..self.nodes.len());
                self.nodes[liar].manner = Manner::SendsWrongBytes;
            }
            // Drawn at random it would hardly ever hold a lease.
            Scenario::LyingLessee => self.first_lessee_lies = true,
            Scenario::OriginThrottled => {
                self.plan(part(0.3), Step::Throttle);
                self.plan(part(0.3) + nanos(THROTTLED), Step::Unthrottle);
            }
            Scenario::OriginDown => self.origin.sends_once = true,
            Scenario::FlashCrowd | Scenario::Staggered | Scenario::RollingUpdate | Scenario::SlowNodes => {}
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
pub(super) fn seconds(time: f64) -> Nanos {
    (time * 1e9) as Nanos
}
