//! How soon a container is useful: real images, pulled and started by a real containerd on a node behind a shaped
//! link, without Shoal, with its full pull, and lazily.

mod arguments;
mod containerd;
mod identity;
mod layers;
mod layout;
mod measure;
mod native;
mod needs;
mod node;
mod page;
mod page_cache;
mod prepare;
mod reader;
mod recipe;
mod report;
mod run;

pub use arguments::LazyArguments;
pub use report::LazyReport;
pub use run::run;
