//! How busy the processors were while nodes pulled: from the moment when the first is told to until the last one has
//! all.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use super::usage::Processors;

/// Processors that were busier than this may have been what was measured, and not the links.
pub(super) const TOO_BUSY: f64 = 0.85;
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Windows of so many times that slide over the run: a second. The kernel counts in hundredths of one, so that a
/// shorter window would tell more of chance.
const WINDOW: usize = 5;

/// Shares of the processors' time, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Load {
    /// Of the whole time.
    pub mean: f64,
    /// Of its busiest second.
    pub most: f64,
    /// The share of its seconds that were too busy.
    pub saturated: f64,
}

impl Load {
    fn of(looks: &[Processors]) -> Self {
        let busy = |looks: &[Processors]| match looks {
            [first, .., last] => last.busy_since(*first),
            _ => 0.0,
        };
        let mean = busy(looks);
        let mut windows: Vec<f64> = looks.windows(WINDOW + 1).map(busy).collect();
        if windows.is_empty() {
            windows.push(mean);
        }
        let too_busy = windows.iter().filter(|busy| **busy > TOO_BUSY).count();
        let most = windows.iter().copied().fold(0.0, f64::max);
        Self { mean, most, saturated: too_busy as f64 / windows.len() as f64 }
    }
}

/// Looks again and again.
#[derive(Debug)]
pub(super) struct LoadWatch {
    stop: oneshot::Sender<()>,
    watching: JoinHandle<Result<Vec<Processors>>>,
}

impl LoadWatch {
    /// Looks first at this moment.
    pub(super) fn start(at: Instant) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let watching = tokio::spawn(async move {
            let mut ticks = tokio::time::interval_at(at.into(), LOOK_EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks.tick().await;
            let mut looks = vec![Processors::now()?];
            loop {
                let last = tokio::select! {
                    _ = ticks.tick() => false,
                    _ = &mut stopped => true,
                };
                looks.push(Processors::now()?);
                if last {
                    return Ok(looks);
                }
            }
        });
        Self { stop, watching }
    }

    /// Looks for the last time.
    pub(super) async fn end(self) -> Result<Load> {
        // It may have failed, which the next line tells.
        let _ = self.stop.send(());
        Ok(Load::of(&self.watching.await??))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks between which the processors were so busy.
    fn looks(busy: &[f64]) -> Vec<Processors> {
        let mut now = Processors::default();
        let after = busy.iter().map(|busy| {
            now = now.after(20.0, *busy);
            now
        });
        std::iter::once(Processors::default()).chain(after).collect()
    }

    #[test]
    fn a_run_that_saturates_the_processors_for_half_its_time_is_seen() {
        let busy = [[1.0; 20], [0.4; 20]].concat();
        let load = Load::of(&looks(&busy));
        assert!((load.mean - 0.7).abs() < 1e-9 && load.mean < TOO_BUSY, "{load:?}");
        assert!((load.most - 1.0).abs() < 1e-9 && (0.4..0.6).contains(&load.saturated), "{load:?}");
    }

    #[test]
    fn a_short_run_is_one_window() {
        for share in [0.5, 0.9] {
            let load = Load::of(&looks(&[share]));
            assert!((load.mean - share).abs() < 1e-9 && (load.most - share).abs() < 1e-9, "{load:?}");
            assert_eq!(load.saturated, f64::from(u8::from(share > TOO_BUSY)));
        }
        assert_eq!(Load::of(&[]), Load { mean: 0.0, most: 0.0, saturated: 0.0 });
    }
}
