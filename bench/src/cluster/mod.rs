//! A cluster of real processes on this machine: network namespaces, shaped links, a real registry.

mod arguments;
mod bound;
mod given;
mod load;
mod measure;
mod origin;
mod run;
mod scenario;
mod shoal;
mod upstream;
mod usage;

pub use arguments::ClusterArguments;
pub use run::run;
