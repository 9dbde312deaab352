//! Which part of a blob an answer sends (RFC 9110, section 14.4).

use http::HeaderMap;
use http::header::CONTENT_RANGE;

/// `Content-Range: bytes start-last/size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContentRange {
    pub(crate) start: u64,
    pub(crate) last: u64,
    pub(crate) size: Option<u64>,
}

pub(crate) fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, size) = text.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let size = if size == "*" { None } else { Some(size.parse().ok()?) };
    Some(ContentRange { start: start.parse().ok()?, last: last.parse().ok()?, size })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn content_ranges() {
        let of = |text: &'static str| {
            content_range(&HeaderMap::from_iter([(CONTENT_RANGE, HeaderValue::from_static(text))]))
        };
        assert_eq!(of("bytes 5-9/20"), Some(ContentRange { start: 5, last: 9, size: Some(20) }));
        assert_eq!(of("bytes 5-9/*"), Some(ContentRange { start: 5, last: 9, size: None }));
        for text in ["", "bytes", "bytes */20", "bytes 5-9", "bytes -9/20", "items 5-9/20", "bytes 5-9/x"] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
