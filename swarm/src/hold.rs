//! How long a client's body waits for the blob's digest.
//!
//! Chunks are checked one by one, but a lease holder may have lied about all of them; the digest, known with the last
//! chunk, is what finds it out. A body of which nothing was given out begins anew then and its client sees nothing.

use std::time::Duration;

/// A body that will be complete within this is held until its digest matched.
pub const HOLD: Duration = Duration::from_secs(10);
/// Before this the pace of a download says nothing.
const PACE_AFTER: Duration = Duration::from_secs(1);
/// The hold ends by time too, so it is looked at again so often.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// How long the rest of a download will take at the pace so far: `have` of `all` chunks after the time `spent`. `None`
/// before the first chunk.
pub fn remaining(spent: Duration, have: u32, all: u32) -> Option<Duration> {
    (have > 0).then(|| spent.mul_f64(f64::from(all.saturating_sub(have)) / f64::from(have)))
}

/// Whether a body whose reader came so long ago still waits for its digest; `rest` is how long the download will
/// take from now on, as far as its pace is known.
pub fn is_held(waited: Duration, rest: Option<Duration>) -> bool {
    let soon = rest.is_none_or(|rest| waited + rest < HOLD);
    waited < HOLD && (waited < PACE_AFTER || soon)
}

/// After what time the hold of a body whose reader came so long ago may have ended without a new chunk.
pub fn look_again(waited: Duration) -> Duration {
    PACE_AFTER
        .checked_sub(waited)
        .filter(|left| !left.is_zero())
        .map_or(LOOK_AGAIN, |left| left.min(LOOK_AGAIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn a_body_that_will_be_complete_within_ten_seconds_is_held_and_none_longer() {
        for (waited, rest, held) in [
            // Too early to know the pace.
            (0.0, None, true),
            (0.9, Some(3600.0), true),
            // Complete in time, or not.
            (1.1, Some(8.0), true),
            (1.1, Some(9.0), false),
            (9.0, Some(0.5), true),
            (9.0, Some(1.5), false),
            // Before the first chunk there is no pace; the hold ends all the same.
            (9.9, None, true),
            (10.0, None, false),
            (10.0, Some(0.1), false),
        ] {
            assert_eq!(is_held(seconds(waited), rest.map(seconds)), held, "{waited} s, {rest:?} left");
        }
    }

    #[test]
    fn the_rest_is_told_from_what_is_there() {
        assert_eq!(remaining(seconds(2.0), 0, 4), None);
        assert_eq!(remaining(seconds(2.0), 1, 4), Some(seconds(6.0)));
        assert_eq!(remaining(seconds(2.0), 4, 4), Some(Duration::ZERO));
    }

    #[test]
    fn it_is_looked_at_just_when_the_pace_is_known() {
        for (waited, wait) in [(0.0, 0.5), (0.4, 0.5), (0.8, 0.2), (1.0, 0.5), (7.0, 0.5)] {
            assert_eq!(look_again(seconds(waited)), seconds(wait), "{waited} s");
        }
    }
}
