//! The media types that a client takes.

use http::HeaderMap;
use http::header::ACCEPT;

/// All `Accept` lines of a request as one. c/image sends a line per media type; a proxy that keeps only one
/// of them gets a manifest that the client cannot read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Accept(String);

impl Accept {
    pub fn new(value: &str) -> Self {
        Self(value.into())
    }

    pub(crate) fn from_headers(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let lines: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
        Self(lines.join(", "))
    }

    /// The value of one header line; empty where the client takes anything.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the client takes this media type (RFC 9110, 12.5.1; weights only as zero or not).
    pub fn allows(&self, media_type: &str) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let family = media_type.split_once('/').map_or(media_type, |(family, _)| family);
        // The most specific range that matches decides.
        let rank = |range: &str| match range {
            _ if range.eq_ignore_ascii_case(media_type) => Some(2),
            "*/*" => Some(0),
            _ => range.strip_suffix("/*").filter(|f| f.eq_ignore_ascii_case(family)).map(|_| 1),
        };
        let matches = self.0.split(',').filter_map(|entry| {
            let mut parts = entry.split(';').map(str::trim);
            let rank = rank(parts.next()?)?;
            let refused = parts.any(is_zero_weight);
            Some((rank, !refused))
        });
        matches.max().is_some_and(|(_, allowed)| allowed)
    }
}

fn is_zero_weight(parameter: &str) -> bool {
    let Some((name, weight)) = parameter.split_once('=') else { return false };
    name.trim().eq_ignore_ascii_case("q") && weight.trim().parse() == Ok(0.0_f32)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn all_lines_are_merged() {
        let mut headers = HeaderMap::new();
        for line in ["application/a+json", " ", "application/b+json;q=0.5, */*;q=0"] {
            headers.append(ACCEPT, HeaderValue::from_static(line));
        }
        let accept = Accept::from_headers(&headers);
        assert_eq!(accept.as_str(), "application/a+json, application/b+json;q=0.5, */*;q=0");
        assert!(accept.allows("application/a+json"));
        assert!(accept.allows("Application/B+json"));
        assert!(!accept.allows("application/c+json"));
    }

    #[test]
    fn ranges_match_by_how_specific_they_are() {
        assert!(Accept::default().allows("a/b"));
        assert!(Accept::new("a/*").allows("a/b"));
        assert!(!Accept::new("a/*").allows("c/b"));
        assert!(!Accept::new("a/b;q=0.0, a/*").allows("a/b"));
        assert!(Accept::new("garbage, ;;;=, */*").allows("a/b"));
    }
}
