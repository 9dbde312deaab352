//! How soon a container is useful: real images, pulled and started by a real containerd on a node behind a shaped
//! link, without Shoal, with its full pull, and lazily.

mod arguments;
mod containerd;
mod layout;
mod measure;
mod node;
mod prepare;
mod reader;
mod recipe;
mod report;
mod run;

pub use arguments::LazyArguments;
pub use report::LazyReport;
pub use run::run;
