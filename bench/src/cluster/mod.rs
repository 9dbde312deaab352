//! A cluster of real processes on this machine: network namespaces, shaped links, a real registry.

mod arguments;
mod bound;
mod layers;
mod measure;
mod run;
mod scenario;
mod shoal;
mod usage;

pub use arguments::ClusterArguments;
pub use run::run;
