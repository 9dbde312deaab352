//! How fast images reach every node: [`cluster`] measures real processes on this machine in network namespaces,
//! [`sim`] runs the swarm's own machines in virtual time, and [`report`] shows both in the same words.

pub mod cluster;
mod layers;
pub mod lazy;
mod rate;
pub mod report;
mod rig;
pub mod sim;
mod warm;

pub use layers::{Layers, LayersError};
pub use rate::{Rate, RateError};
pub use warm::WarmMemory;

/// The command line asks for something that cannot be done; the text says what and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);
