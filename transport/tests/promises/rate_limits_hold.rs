use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use shoal_transport::RateLimit;
use tokio::time::Instant;

fn limit(bytes_per_second: u64) -> Arc<RateLimit> {
    Arc::new(RateLimit::new(NonZeroU64::new(bytes_per_second)))
}

/// What is let through at once after a pause.
const BURST: Duration = Duration::from_millis(50);

#[tokio::test(start_paused = true)]
async fn over_many_takers() {
    let limit = limit(1_000_000);
    let started = Instant::now();
    let takers = (0..10).map(|_| {
        let limit = limit.clone();
        tokio::spawn(async move {
            for _ in 0..100 {
                limit.take(5_000).await;
            }
        })
    });
    futures_util::future::join_all(takers).await;
    // 5 MB at 1 MB/s; virtual time, in steps of a millisecond.
    let ideal = Duration::from_secs(5);
    let took = started.elapsed();
    assert!(took >= ideal - BURST && took <= ideal + Duration::from_millis(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_not_saved_up() {
    let limit = limit(1_000_000);
    limit.take(1).await;
    tokio::time::advance(Duration::from_secs(60)).await;
    let started = Instant::now();
    limit.take(1_000_000).await;
    assert!(started.elapsed() >= Duration::from_secs(1) - BURST);
}

#[tokio::test(start_paused = true)]
async fn none_is_unlimited() {
    let started = Instant::now();
    RateLimit::new(None).take(u64::MAX).await;
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn more_than_time_has_seconds_for_waits_without_a_panic() {
    let limit = limit(1);
    let waiting = tokio::time::timeout(Duration::from_secs(3600), limit.take(u64::MAX)).await;
    assert!(waiting.is_err());
    let waiting = tokio::time::timeout(Duration::from_secs(3600), limit.take(u64::MAX)).await;
    assert!(waiting.is_err());
}
