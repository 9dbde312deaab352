//! What a run of either benchmark found: a table, JSON, one HTML page, and a comparison with an earlier run.

mod model;
mod table;

pub use model::{Kind, Mode, Report, Sample};
