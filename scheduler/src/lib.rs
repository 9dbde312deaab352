//! The tracker as a service: nodes hold a session each, the machine of `swarm` decides.
//!
//! All state is soft. A scheduler that starts empty learns from its nodes what they hold before it grants a
//! lease, so that nothing is read from an origin twice because of its absence.

mod admin;
mod config;
mod server;
mod service;
mod task;

pub use config::{ConfigError, SchedulerConfig};
pub use server::{Scheduler, StartError};
pub use service::TrackerService;
pub use task::{SessionSender, Stopped, TrackerHandle};
