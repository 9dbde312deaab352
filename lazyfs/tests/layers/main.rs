//! What an index and its spans promise.

mod any_range_is_the_tars;
mod builders_agree;
mod hostile_bytes;
mod refused_layers;
mod samples;
