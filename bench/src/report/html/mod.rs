//! The report as one page that needs nothing else: no scripts, no fonts, no network.

mod axis;
mod bars;
mod completion;
mod figures;
mod page;
mod text;
mod traffic;

pub(super) use page::page;
pub(crate) use page::{notes, section, settings, shell};
pub(crate) use text::{escape, seconds, size};
