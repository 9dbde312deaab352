//! Asks a source until it has an answer.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use crate::source::SourceError;

/// Between the first two questions, then twice as long each time. A daemon that starts again is up in this time.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// A reader waits no longer than this after the bytes can be had again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Asks again while the source is only unavailable, up to the deadline. A source that does not answer at all is
/// unavailable too.
pub(super) async fn until<T, F>(
    deadline: Instant,
    unanswered: SourceError,
    mut ask: impl FnMut() -> F,
) -> Result<T, SourceError>
where
    F: Future<Output = Result<T, SourceError>>,
{
    let mut pause = FIRST_PAUSE;
    loop {
        match timeout_at(deadline, ask()).await {
            Ok(Err(error @ SourceError::Unavailable(_))) if Instant::now() + pause >= deadline => {
                return Err(error);
            }
            Ok(Err(SourceError::Unavailable(_))) => {}
            Ok(answer) => return answer,
            Err(_) => return Err(unanswered),
        }
        sleep_until(Instant::now() + pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
