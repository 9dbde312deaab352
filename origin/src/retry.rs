//! When to ask again, and when not.

use std::time::{Duration, SystemTime};

use crate::error::Failure;

/// Tries of one request. Three outlast a restarting backend behind a load balancer; more would keep a
/// client waiting that could go to its next mirror.
pub(crate) const TRIES: u32 = 3;

// The first pause; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

// A registry that asks for more than an hour is asked again after an hour.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// Whether another try may help. Not after 429: that is for the caller to wait out.
pub(crate) fn is_worthwhile(failure: &Failure) -> bool {
    match failure {
        Failure::Unreachable { .. } => true,
        Failure::Server { status } => matches!(status, 500 | 502 | 503 | 504),
        _ => false,
    }
}

/// Waits before try `n` (from 1): a pause that doubles, between half and all of it, so that many nodes do
/// not come back at the same moment.
pub(crate) async fn pause_before(n: u32) {
    let longest = FIRST_PAUSE * 2u32.saturating_pow(n.saturating_sub(1));
    tokio::time::sleep(longest.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
}

/// Reads `Retry-After`: seconds or an HTTP date (RFC 9110, section 10.2.3), at most an hour.
pub(crate) fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        value.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let at = |secs| httpdate::fmt_http_date(now + Duration::from_secs(secs));
        for (text, want) in [
            ("30".to_owned(), Some(30)),
            (at(90), Some(90)),
            (httpdate::fmt_http_date(SystemTime::UNIX_EPOCH), Some(0)),
            ("99999999999999999999999".to_owned(), Some(3600)),
            (at(1_000_000), Some(3600)),
            ("-1".to_owned(), None),
            ("soon".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(parse_retry_after(&text, now), want.map(Duration::from_secs), "{text}");
        }
    }
}
