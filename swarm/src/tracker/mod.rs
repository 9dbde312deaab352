//! Who may read from an origin, and who are neighbours.

mod config;
mod event;
mod snapshot;

use crate::Time;
pub use config::TrackerConfig;
pub use event::{TrackerAction, TrackerEvent};
pub use snapshot::{TrackedSwarm, TrackerSnapshot};

/// The machine.
#[derive(Debug)]
pub struct TrackerMachine {
    epoch: u64,
}

impl TrackerMachine {
    pub fn new(_config: TrackerConfig, epoch: u64, _seed: u64) -> Self {
        Self { epoch }
    }
    pub fn handle(&mut self, _now: Time, _event: TrackerEvent) {}
    pub fn poll_action(&mut self) -> Option<TrackerAction> {
        None
    }
    pub fn next_timeout(&self) -> Option<Time> {
        None
    }
    pub fn snapshot(&self) -> TrackerSnapshot {
        TrackerSnapshot { open: self.epoch == 0, ..TrackerSnapshot::default() }
    }
}
