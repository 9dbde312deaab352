//! Who comes first: readers that wait before the rest of a layer. What may be read soon has a few places of its own, and
//! waits for nobody else: a reader may be waiting for it by now.

use std::sync::Arc;

use shoal_lazyfs::source::Urgency;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

/// Ranges that are fetched at once on behalf of readers: each may hold 32 MiB, and most have one.
const DEMAND: usize = 32;
/// Those that nobody waits for yet.
const PREFETCH: usize = 8;
const FILL: usize = 2;

/// Lets fetches begin.
#[derive(Debug)]
pub(super) struct Gate {
    demand: Semaphore,
    prefetch: Semaphore,
    fill: Semaphore,
    /// Fetches under way that a reader waits for.
    readers: Arc<watch::Sender<usize>>,
}

/// The right to fetch one range.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    _permit: Option<SemaphorePermit<'a>>,
    reader: Option<Arc<watch::Sender<usize>>>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(readers) = &self.reader {
            readers.send_modify(|count| *count -= 1);
        }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            demand: Semaphore::new(DEMAND),
            prefetch: Semaphore::new(PREFETCH),
            fill: Semaphore::new(FILL),
            readers: Arc::default(),
        }
    }
}

impl Gate {
    pub(super) async fn enter(&self, urgency: Urgency) -> Turn<'_> {
        if urgency == Urgency::Demand {
            self.readers.send_modify(|count| *count += 1);
            let mut turn = Turn { _permit: None, reader: Some(self.readers.clone()) };
            // It fails where the semaphore is closed, which this one never is.
            turn._permit = self.demand.acquire().await.ok();
            return turn;
        }
        if urgency == Urgency::Prefetch {
            return Turn { _permit: self.prefetch.acquire().await.ok(), reader: None };
        }
        let permit = self.fill.acquire().await.ok();
        let mut readers = self.readers.subscribe();
        // It fails where the sender, which `self` holds, is gone.
        let _ = readers.wait_for(|count| *count == 0).await;
        Turn { _permit: permit, reader: None }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_fill_waits_until_no_reader_does() {
        let gate = Gate::default();
        let reader = gate.enter(Urgency::Demand).await;
        let another = gate.enter(Urgency::Demand).now_or_never().expect("readers do not wait for each other");
        let mut fill = std::pin::pin!(gate.enter(Urgency::Fill));
        assert!(fill.as_mut().now_or_never().is_none());
        drop(reader);
        assert!(fill.as_mut().now_or_never().is_none());
        drop(another);
        let _turn = fill.now_or_never().expect("nobody waits any more");
        assert!(gate.enter(Urgency::Demand).now_or_never().is_some(), "a reader never waits for a fill");
    }

    /// Somebody who reads on may have come to it, and waits like all other readers.
    #[tokio::test]
    async fn what_is_read_ahead_waits_for_no_reader() {
        let gate = Gate::default();
        let _readers: Vec<_> =
            (0..DEMAND).map(|_| gate.enter(Urgency::Demand).now_or_never().expect("there is room")).collect();
        assert!(gate.enter(Urgency::Prefetch).now_or_never().is_some());
    }
}
