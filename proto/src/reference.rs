//! Repositories, tags and references, as in the OCI distribution specification, "Pulling manifests".

use std::fmt;
use std::str::FromStr;

use crate::{Digest, DigestError};

// Clients limit host and repository together to 255 characters; so does the specification advise.
const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// The name of a repository within its registry: `library/alpine`, `team/app`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository(Box<str>);

/// A tag of a repository: `latest`, `v1.2`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Box<str>);

/// What names a manifest in its repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reference {
    Tag(Tag),
    Digest(Digest),
}

/// Why a text names no repository, tag or manifest. Texts are cut short: they come from outside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("{0:?} is not a repository's name: lower-case words, joined by . _ __ or -, separated by /")]
    Repository(String),
    #[error("{0:?} is not a tag: letters, digits, _ . and -, at most 128, not starting with . or -")]
    Tag(String),
    #[error("not a tag, and not a digest either: {0}")]
    Digest(#[from] DigestError),
}

fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

fn is_word_char(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(|b| is_word_char(*b));
    let separator = |run: &str| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|b| b == b'-');
    ends(text.as_bytes().first())
        && ends(text.as_bytes().last())
        && text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(separator)
}

impl Repository {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Repository {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.len() <= MAX_REPOSITORY && text.split('/').all(is_component) {
            Ok(Self(text.into()))
        } else {
            Err(ReferenceError::Repository(shorten(text)))
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let starts = text.bytes().next().is_some_and(word);
        if starts && text.len() <= MAX_TAG && text.bytes().all(|b| word(b) || b == b'.' || b == b'-') {
            Ok(Self(text.into()))
        } else {
            Err(ReferenceError::Tag(shorten(text)))
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    /// A tag has no colon, a digest always has one.
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.contains(':') { Ok(Self::Digest(text.parse()?)) } else { Ok(Self::Tag(text.parse()?)) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_that_the_grammar_allows() {
        for text in ["a", "library/alpine", "a.b/c_d/e__f/g---h/0", &"a".repeat(255)] {
            assert_eq!(text.parse::<Repository>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn hostile_repositories_are_refused() {
        let long = "a".repeat(256);
        for text in [
            "", "/", "a/", "/a", "a//b", "..", "a/../b", ".a", "a.", "a..b", "a___b", "a._b", "-a", "a-",
            "A", "é", "a b", "a%2fb", "a?b", "a\n", &long,
        ] {
            assert!(text.parse::<Repository>().is_err(), "{text}");
        }
    }

    #[test]
    fn references_are_tags_or_digests() {
        let digest = format!("sha256:{}", "a1".repeat(32));
        assert!(matches!(digest.parse(), Ok(Reference::Digest(_))));
        for text in ["latest", "V1.2-rc.1", "_x", &"t".repeat(128)] {
            assert!(matches!(text.parse(), Ok(Reference::Tag(tag)) if tag.as_str() == text), "{text}");
        }
        for text in ["", ".a", "-a", "a/b", "a:b", "sha256:00", "é", "a b", &"t".repeat(129)] {
            assert!(text.parse::<Reference>().is_err(), "{text}");
        }
    }
}
