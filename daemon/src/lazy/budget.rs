//! How much memory the answers to one connection may take.

use std::sync::Arc;

use shoal_lazyfs::link::messages::{Ask, Urgency};
use shoal_proto::message::limit;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that readers wait for: two of the longest ranges, and far more of those that are asked for mostly.
const DEMAND: usize = 2 * LONGEST;
/// Bytes that nobody waits for: one of the longest ranges.
const OTHERS: usize = LONGEST;
#[allow(clippy::cast_possible_truncation, reason = "32 MiB")]
const LONGEST: usize = limit::RANGE as usize;

/// Bytes from before they are fetched until the other side took them: one that takes nothing gets no more fetched, and
/// takes no [turn](super::gate) from others. Each kind has its own, for none of them waits for a less urgent one.
#[derive(Debug)]
pub(super) struct Budget {
    demand: Arc<Semaphore>,
    prefetch: Arc<Semaphore>,
    fill: Arc<Semaphore>,
}

impl Default for Budget {
    fn default() -> Self {
        let of = |bytes| Arc::new(Semaphore::new(bytes));
        Self { demand: of(DEMAND), prefetch: of(OTHERS), fill: of(OTHERS) }
    }
}

impl Budget {
    /// Room for the answer. Answers without bytes of layers need none: that there are not too many of them suffices.
    pub(super) fn room_for(&self, ask: &Ask) -> impl Future<Output = Option<OwnedSemaphorePermit>> + use<> {
        let room = match ask {
            Ask::Range(range) => {
                let bytes = range.end.saturating_sub(range.start).min(limit::RANGE);
                let of = match range.urgency() {
                    Urgency::Demand => &self.demand,
                    Urgency::Prefetch => &self.prefetch,
                    Urgency::Fill => &self.fill,
                };
                Some((of.clone(), u32::try_from(bytes).unwrap_or(u32::MAX)))
            }
            _ => None,
        };
        async move {
            let (of, bytes) = room?;
            // It fails where the semaphore is closed, which these never are.
            of.acquire_many_owned(bytes).await.ok()
        }
    }
}
