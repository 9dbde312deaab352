//! A cluster of real processes on this machine: network namespaces, shaped links, a real registry.

mod arguments;
mod bound;
mod client;
mod folder;
mod given;
mod image;
mod layers;
mod measure;
mod net;
mod origin;
mod process;
mod progress;
mod rate;
mod registry;
mod run;
mod scenario;
mod shoal;
mod upstream;
mod usage;

pub use arguments::ClusterArguments;
pub use run::run;
