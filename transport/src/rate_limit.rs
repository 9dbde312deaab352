//! A limit on bytes per second.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How much may pass at once after a pause: a block now is as good as the same block a little later, and
/// without it every wait would be rounded up to the timer's millisecond.
const BURST: Duration = Duration::from_millis(50);

/// Nobody waits longer; keeps sums of waits within what an instant can hold.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// A token bucket, shared by all that it limits. Bytes are taken in the order of the calls.
#[derive(Debug)]
pub struct RateLimit {
    /// Bytes per second.
    rate: Option<NonZeroU64>,
    /// When all bytes that were taken so far are paid for.
    paid: Mutex<Option<Instant>>,
}

impl RateLimit {
    /// At most this many bytes per second; `None`: unlimited.
    pub fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self { rate: bytes_per_second, paid: Mutex::new(None) }
    }

    /// Returns when `bytes` more may pass. Whoever stops waiting has taken them all the same.
    pub async fn take(&self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        let cost =
            Duration::try_from_secs_f64(bytes as f64 / rate.get() as f64).unwrap_or(FOREVER).min(FOREVER);
        let now = Instant::now();
        let until = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            let start = paid.unwrap_or(now).max(now);
            let until = start.checked_add(cost).unwrap_or(start);
            *paid = Some(until);
            until
        };
        if let Some(wake) = until.checked_sub(BURST)
            && wake > now
        {
            tokio::time::sleep_until(wake).await;
        }
    }
}
