//! Makes layers whole when nobody waits for anything else, and then checks what their indexes say.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;

use crate::source::SourceError;
use crate::span_cache::{FillError, Layer, ReadError};

/// Spans that are fetched at a time for nobody: a line stays busy, and a reader finds it free soon.
const FETCHES: usize = 4;
/// After which it is tried again where nobody could serve, or there was no room.
const PAUSE: Duration = Duration::from_secs(10);

/// When to begin.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// After so long without a reader who waited.
    pub quiet: Duration,
    /// After so long in any case.
    pub latest: Duration,
}

impl Pace {
    /// Now.
    pub const EAGER: Self = Self { quiet: Duration::ZERO, latest: Duration::ZERO };
}

impl Default for Pace {
    /// A container that starts reads again and again for some seconds; those that never stop are not waited for.
    fn default() -> Self {
        Self { quiet: Duration::from_secs(2), latest: Duration::from_secs(30) }
    }
}

/// Makes layers whole, one after the other; those that nobody can serve at present, or for which the cache has no room,
/// come round again. Ends when they are whole, or cannot be. What cannot be is logged.
pub async fn fill(mut layers: Vec<Arc<Layer>>, pace: Pace) {
    wait(&layers, pace).await;
    loop {
        let mut later = Vec::new();
        for layer in layers {
            let digest = *layer.digest();
            match fill_layer(&layer).await {
                Ok(()) => tracing::info!(layer = %digest, "a layer is whole, and its index is right"),
                Err(
                    FillError::NoRoom
                    | FillError::Read(ReadError::Source { error: SourceError::Unavailable(_), .. }),
                ) => later.push(layer),
                Err(error) => tracing::warn!(layer = %digest, %error, "a layer cannot be made whole"),
            }
        }
        if later.is_empty() {
            return;
        }
        layers = later;
        tokio::time::sleep(PAUSE).await;
    }
}

/// Until no reader waited for a while.
async fn wait(layers: &[Arc<Layer>], pace: Pace) {
    let latest = Instant::now() + pace.latest;
    loop {
        let quiet = layers.iter().filter_map(|layer| layer.last_demand()).max().map(|last| last + pace.quiet);
        let until = quiet.unwrap_or_else(|| latest - pace.latest + pace.quiet).min(latest);
        if until <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

/// What turns out to be lost on this disk is fetched again, but only once: a disk may go on losing it.
async fn fill_layer(layer: &Arc<Layer>) -> Result<(), FillError> {
    match fill_and_prove(layer).await {
        Err(FillError::Read(ReadError::Disk { .. })) => fill_and_prove(layer).await,
        done => done,
    }
}

async fn fill_and_prove(layer: &Arc<Layer>) -> Result<(), FillError> {
    let spans = stream::iter(layer.index().spans.indexes()).map(|span| layer.fill(span));
    spans.buffered(FETCHES).try_collect::<()>().await?;
    layer.prove().await
}
