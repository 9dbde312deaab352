//! What a run of either benchmark found: a table, JSON, one HTML page, and a comparison with an earlier run.

mod compare;
pub(crate) mod html;
mod model;
mod output;
mod table;

pub use model::{Kind, Mode, Report, Sample};
pub use output::{Files, Output, OutputArguments};
pub(crate) use table::write_table;
