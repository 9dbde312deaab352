//! A cluster of real processes on this machine: network namespaces, shaped links, a real registry.

mod arguments;
mod bound;
mod client;
mod folder;
mod image;
pub(crate) mod layers;
mod measure;
mod net;
mod process;
mod progress;
mod rate;
mod registry;
mod run;
mod scenario;
mod shoal;
mod usage;

pub use arguments::ClusterArguments;
pub use run::run;
