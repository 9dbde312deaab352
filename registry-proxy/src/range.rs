//! `Range` and `If-Range` (RFC 9110, 13.1.5 and 14).

use std::ops::Range;

use http::HeaderMap;
use http::header::{IF_RANGE, RANGE};

/// Which bytes of a blob a request wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// No range, or one that may be ignored: several ranges, another unit, not well-formed.
    Whole,
    /// Never empty, within the blob.
    Part(Range<u64>),
    /// Well-formed, and nothing of it is there.
    PastEnd,
}

impl Wanted {
    pub(crate) fn from_headers(headers: &HeaderMap, size: u64, etag: &str) -> Self {
        let mut lines = headers.get_all(RANGE).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return Self::Whole };
        // A date, a weak tag or another one: the client holds something else, so it gets all of this.
        let same = headers.get(IF_RANGE).is_none_or(|tag| tag.as_bytes() == etag.as_bytes());
        match line.to_str().ok().and_then(Spec::parse) {
            Some(spec) if same => spec.within(size),
            _ => Self::Whole,
        }
    }
}

enum Spec {
    /// First and, if given, last position; both count.
    From(u64, Option<u64>),
    /// The last so many bytes.
    Suffix(u64),
}

impl Spec {
    fn parse(line: &str) -> Option<Self> {
        let (unit, spec) = line.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        match spec.trim().split_once('-')? {
            ("", suffix) => Some(Self::Suffix(number(suffix)?)),
            (first, "") => Some(Self::From(number(first)?, None)),
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                (first <= last).then_some(Self::From(first, Some(last)))
            }
        }
    }

    fn within(&self, size: u64) -> Wanted {
        match *self {
            // `Content-Range` cannot express a part of nothing.
            Self::Suffix(length) if length > 0 && size == 0 => Wanted::Whole,
            Self::Suffix(length) if length > 0 => Wanted::Part(size.saturating_sub(length)..size),
            Self::From(first, last) if first < size => {
                Wanted::Part(first..last.map_or(size, |last| last.saturating_add(1).min(size)))
            }
            Self::Suffix(_) | Self::From(..) => Wanted::PastEnd,
        }
    }
}

/// Digits only. A number too large for any blob is as good as the largest.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn wanted(range: &str, size: u64) -> Wanted {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::from_str(range).unwrap());
        Wanted::from_headers(&headers, size, "\"tag\"")
    }

    #[test]
    fn every_form_of_one_range() {
        for (text, part) in [
            ("bytes=0-0", 0..1),
            ("bytes=500-1499", 500..1000),
            ("bytes=500-600", 500..601),
            ("bytes=500-", 500..1000),
            ("bytes=-500", 500..1000),
            ("bytes=-5000", 0..1000),
            ("Bytes= 7-9 ", 7..10),
            ("bytes=5-99999999999999999999999999", 5..1000),
            ("bytes=-99999999999999999999999999", 0..1000),
        ] {
            assert_eq!(wanted(text, 1000), Wanted::Part(part), "{text}");
        }
    }

    #[test]
    fn past_the_end() {
        for text in ["bytes=1000-", "bytes=1000-2000", "bytes=99999999999999999999999999-", "bytes=-0"] {
            assert_eq!(wanted(text, 1000), Wanted::PastEnd, "{text}");
        }
        assert_eq!(wanted("bytes=0-", 0), Wanted::PastEnd);
        assert_eq!(wanted("bytes=-1", 0), Wanted::Whole);
    }

    #[test]
    fn what_is_not_one_range_is_ignored() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5-4",
            "bytes=0-1,3-4",
            "bytes=0-1,",
            "bytes=+1-2",
            "bytes=1-2-3",
            "chunks=0-1",
            "bytes 0-1",
            "bytes=--1",
        ] {
            assert_eq!(wanted(text, 1000), Wanted::Whole, "{text}");
        }
        let mut twice = HeaderMap::new();
        twice.append(RANGE, HeaderValue::from_static("bytes=0-1"));
        twice.append(RANGE, HeaderValue::from_static("bytes=5-6"));
        assert_eq!(Wanted::from_headers(&twice, 10, ""), Wanted::Whole);
    }

    #[test]
    fn if_range_needs_the_very_same_tag() {
        for (tag, same) in [
            ("\"tag\"", true),
            ("W/\"tag\"", false),
            ("\"other\"", false),
            ("Sat, 01 Jan 2000 00:00:00 GMT", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RANGE, HeaderValue::from_static("bytes=0-1"));
            headers.insert(IF_RANGE, HeaderValue::from_static(tag));
            let part = Wanted::from_headers(&headers, 10, "\"tag\"") == Wanted::Part(0..2);
            assert_eq!(part, same, "{tag}");
        }
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_blob(text in "bytes=[0-9]{0,22}-[0-9]{0,22}", size in 0..5000_u64) {
            if let Wanted::Part(range) = wanted(&text, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
