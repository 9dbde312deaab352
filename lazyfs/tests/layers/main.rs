//! What an index and its spans promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod any_range_is_the_tars;
mod builders_agree;
mod hostile_bytes;
mod refused_layers;
mod samples;
