//! Asks one source after the other for the same bytes, and a second one beside the first where nothing comes.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};

use super::ranges::RangeError;

/// Where nothing came for so long, another source is asked as well. What comes slowly is waited for: where many readers
/// share a line, to ask for it twice would make it slower still.
const PATIENCE: Duration = Duration::from_secs(2);
/// Sources that are asked beside others, for all ranges together: what comes twice is never more than this part of what
/// [readers](super::gate) may fetch at once, an eighth.
const BESIDE: usize = 4;

/// Bounds what is asked for twice.
#[derive(Debug)]
pub(super) struct Hedge(Semaphore);

impl Default for Hedge {
    fn default() -> Self {
        Self(Semaphore::new(BESIDE))
    }
}

impl Hedge {
    /// What the first of these gives that gives it. `ask` adds to the number that it is handed whenever bytes arrive.
    pub(super) async fn first_of<C, T, F>(
        &self,
        candidates: Vec<C>,
        ask: impl Fn(C, watch::Sender<u64>) -> F,
    ) -> Result<T, RangeError>
    where
        F: Future<Output = Result<T, RangeError>>,
    {
        let (arrived, mut arrives) = watch::channel(0);
        let ask = |candidate| ask(candidate, arrived.clone());
        let mut rest = candidates.into_iter();
        let mut asked: FuturesUnordered<_> = rest.next().map(ask).into_iter().collect();
        let mut beside = Vec::new();
        let mut why = RangeError::Nobody;
        let mut last_arrival = Instant::now();
        let mut last_asked = last_arrival;
        loop {
            tokio::select! {
                answer = asked.next() => match answer {
                    Some(Ok(got)) => return Ok(got),
                    Some(Err(error)) => {
                        if !matches!(error, RangeError::Nobody) {
                            why = error;
                        }
                        beside.pop();
                        if asked.is_empty() {
                            asked.extend(rest.next().map(ask));
                            (last_arrival, last_asked) = (Instant::now(), Instant::now());
                        } else {
                            // Whoever else is asked was waited for long enough, unless something comes.
                            last_asked = last_arrival;
                        }
                    }
                    None => return Err(why),
                },
                // Not an error: `arrived` is here.
                _ = arrives.changed() => last_arrival = Instant::now(),
                permit = self.another(last_arrival.max(last_asked)), if rest.len() > 0 => {
                    beside.push(permit);
                    asked.extend(rest.next().map(ask));
                    last_asked = Instant::now();
                }
            }
        }
    }

    /// The right to ask another one, when nothing came since then for too long.
    async fn another(&self, since: Instant) -> Option<SemaphorePermit<'_>> {
        sleep_until(since + PATIENCE).await;
        // It fails where the semaphore is closed, which this one never is.
        self.0.acquire().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;
    use tokio::time::sleep;

    use super::*;

    /// What a source does with a request.
    #[derive(Clone, Copy)]
    enum Gives {
        /// A piece each second, so many.
        Slowly(u32),
        /// All at once, after so long.
        After(Duration),
        Nothing,
        NotHeld,
    }

    /// Asks sources in this order; counts those that are asked, and the most that are at the same time.
    #[derive(Default)]
    struct Counts {
        asked: AtomicUsize,
        now: AtomicUsize,
        most: AtomicUsize,
    }

    impl Counts {
        async fn ask(&self, gives: Gives, arrived: watch::Sender<u64>) -> Result<(), RangeError> {
            struct Ends<'a>(&'a AtomicUsize);
            impl Drop for Ends<'_> {
                fn drop(&mut self) {
                    self.0.fetch_sub(1, Ordering::Relaxed);
                }
            }
            self.asked.fetch_add(1, Ordering::Relaxed);
            self.most.fetch_max(self.now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            let _ends = Ends(&self.now);
            match gives {
                Gives::Slowly(pieces) => {
                    for _ in 0..pieces {
                        sleep(Duration::from_secs(1)).await;
                        arrived.send_modify(|bytes| *bytes += 1000);
                    }
                    Ok(())
                }
                Gives::After(time) => {
                    sleep(time).await;
                    arrived.send_modify(|bytes| *bytes += 1000);
                    Ok(())
                }
                Gives::Nothing => std::future::pending().await,
                Gives::NotHeld => Err(RangeError::Nobody),
            }
        }

        async fn first_of(&self, hedge: &Hedge, sources: &[Gives]) -> Result<(), RangeError> {
            hedge.first_of(sources.to_vec(), |gives, arrived| self.ask(gives, arrived)).await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_slowly_is_asked_for_once() {
        let counts = Counts::default();
        let sources = [Gives::Slowly(60), Gives::After(Duration::ZERO)];
        counts.first_of(&Hedge::default(), &sources).await.unwrap();
        assert_eq!(counts.asked.into_inner(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn beside_one_that_gives_nothing_another_is_asked_and_beside_that_too() {
        let counts = Counts::default();
        let begun = Instant::now();
        // Who has it not costs no time.
        let sources = [
            Gives::Nothing,
            Gives::NotHeld,
            Gives::Nothing,
            Gives::NotHeld,
            Gives::NotHeld,
            Gives::After(Duration::ZERO),
        ];
        counts.first_of(&Hedge::default(), &sources).await.unwrap();
        assert_eq!((counts.asked.into_inner(), counts.most.into_inner()), (6, 3));
        assert_eq!(begun.elapsed().as_secs(), 2 * PATIENCE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_begins_and_then_stops_is_not_waited_for() {
        let counts = Counts::default();
        let stops = async |gives, arrived: watch::Sender<u64>| {
            arrived.send_modify(|bytes| *bytes += 1000);
            counts.ask(gives, arrived).await
        };
        let sources = vec![Gives::Nothing, Gives::After(Duration::ZERO)];
        Hedge::default().first_of(sources, stops).await.unwrap();
        assert_eq!(counts.asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_ranges_that_wait_few_are_asked_for_twice_at_a_time() {
        let (hedge, counts) = (Hedge::default(), Counts::default());
        // As where the first answers of all come late, over one line.
        let slow = [Gives::After(Duration::from_secs(30)), Gives::After(Duration::from_secs(30))];
        for answer in join_all((0..32).map(|_| counts.first_of(&hedge, &slow))).await {
            answer.unwrap();
        }
        assert_eq!(counts.most.into_inner(), 32 + BESIDE);
        // As where the first of all is dead: each comes to its turn.
        let (dead, counts) = ([Gives::Nothing, Gives::After(Duration::from_millis(50))], Counts::default());
        for answer in join_all((0..32).map(|_| counts.first_of(&hedge, &dead))).await {
            answer.unwrap();
        }
        assert_eq!(counts.asked.into_inner(), 64);
    }

    #[tokio::test]
    async fn with_nobody_left_the_reason_is_the_one_that_says_most() {
        let ask = async |reason, _| Err::<(), _>(reason);
        let reasons = vec![RangeError::Whole, RangeError::Nobody];
        let failed = Hedge::default().first_of(reasons, ask).await;
        assert!(matches!(failed, Err(RangeError::Whole)));
    }
}
