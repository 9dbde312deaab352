//! Makes layers whole when nobody waits for anything else, and then checks what their indexes say.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::Instant;

use crate::lock::lock;
use crate::source::SourceError;
use crate::span_cache::{FillError, Layer, ReadError};

/// Spans that are fetched at a time for nobody: a line stays busy, and a reader finds it free soon.
const FETCHES: usize = 4;
/// After which it is tried again where nobody could serve, there was no room, or what came was wrong. It doubles, as each
/// try may fetch for nothing what a full disk does not take.
const PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(320);

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

/// How fast all fills that share it fetch, together.
#[derive(Debug, Default)]
pub struct FillRate {
    /// Compressed bytes a second; without it as fast as they come.
    limit: Option<NonZeroU64>,
    /// When the next span may be asked for.
    next: Mutex<Option<Instant>>,
}

impl FillRate {
    /// At most so many bytes of layers a second, as they are compressed; 0 is no limit.
    pub fn bytes_per_second(limit: u64) -> Self {
        Self { limit: NonZeroU64::new(limit), next: Mutex::default() }
    }

    /// When so many bytes may be asked for, which then are.
    fn take(&self, bytes: u64) -> Instant {
        let now = Instant::now();
        let Some(limit) = self.limit else { return now };
        let mut next = lock(&self.next);
        let at = next.map_or(now, |next| next.max(now));
        // A span has at most some MiB.
        let nanos = bytes.saturating_mul(1_000_000_000) / limit;
        *next = Some(at + Duration::from_nanos(nanos));
        at
    }
}

/// Makes layers whole, one after the other; those that nobody can serve at present, or rightly, or for which the cache or
/// the disk has no room, come round again. Ends when they are whole, or cannot be. What cannot be is logged.
pub async fn fill(mut layers: Vec<Arc<Layer>>, pace: Pace, rate: &FillRate) {
    wait(&layers, pace).await;
    let mut pause = PAUSE;
    loop {
        let mut later = Vec::new();
        for layer in layers {
            let digest = *layer.digest();
            match fill_layer(&layer, rate).await {
                Ok(()) => tracing::info!(layer = %digest, "a layer is whole, and its index is right"),
                Err(error) if may_pass(&error) => {
                    tracing::info!(layer = %digest, %error, again_in = ?pause, "a layer is not whole yet");
                    later.push(layer);
                }
                Err(error) => tracing::warn!(layer = %digest, %error, "a layer cannot be made whole"),
            }
        }
        if later.is_empty() {
            return;
        }
        layers = later;
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

fn may_pass(error: &FillError) -> bool {
    use {FillError as Fill, ReadError as Read};
    matches!(
        error,
        Fill::NoRoom
            | Fill::DiskFull
            | Fill::Read(Read::Span { .. } | Read::Source { error: SourceError::Unavailable(_), .. })
    )
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
async fn fill_layer(layer: &Arc<Layer>, rate: &FillRate) -> Result<(), FillError> {
    match fill_and_prove(layer, rate).await {
        Err(FillError::Read(ReadError::Disk { .. })) => fill_and_prove(layer, rate).await,
        done => done,
    }
}

async fn fill_and_prove(layer: &Arc<Layer>, rate: &FillRate) -> Result<(), FillError> {
    let spans = stream::iter(layer.index().spans.indexes()).map(|span| async move {
        if !layer.has(span) {
            let range = layer.index().spans.compressed_range(span).unwrap_or_default();
            tokio::time::sleep_until(rate.take(range.end - range.start)).await;
        }
        layer.fill(span).await
    });
    spans.buffered(FETCHES).try_collect::<()>().await?;
    layer.prove().await
}
