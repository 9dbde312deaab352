//! What a run of either benchmark found: a table, JSON, one HTML page, and a comparison with an earlier run.

mod compare;
pub(crate) mod html;
mod model;
mod output;
mod table;

pub use model::{Kind, Mode, Report, Sample};
pub use output::{Files, Output, OutputArguments};
pub(crate) use table::write_table;

/// What a report of a debug build begins its notes with: its processes spend several times what a release build does.
pub(crate) fn debug_build() -> Option<String> {
    let why = "this is a debug build, whose processes need much more of the processors: measure a release build \
               (cargo build --release -p shoal-cli)";
    cfg!(debug_assertions).then(|| why.to_owned())
}
