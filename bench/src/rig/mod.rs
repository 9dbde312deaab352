//! What benchmarks of real processes are made of: network namespaces with shaped links, a registry, Shoal's
//! processes, images, and the removal of all of it.

pub(crate) mod client;
pub(crate) mod folder;
pub(crate) mod image;
pub(crate) mod interrupt;
pub(crate) mod members;
pub(crate) mod net;
pub(crate) mod process;
pub(crate) mod progress;
pub(crate) mod registry;
