//! Lazy layers: what an index costs, a mounted image beside the same bytes in a plain file, and a span that comes from
//! a peer.

mod index;
mod machine_layer;
mod mounted;
mod on_demand;

use std::time::Duration;

use anyhow::Result;

use crate::Bench;

pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    let layer = tokio::task::block_in_place(|| machine_layer::make(bench.folder(), bench.size / 2))?;
    tokio::task::block_in_place(|| index::measure(bench, &layer))?;
    on_demand::measure(bench, layer).await?;
    mounted::measure(bench).await
}

/// Milliseconds.
fn median(times: &mut [Duration]) -> f64 {
    times.sort_unstable();
    times.get(times.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}
