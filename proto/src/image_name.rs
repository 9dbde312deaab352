//! Names of images, as people write them.

use std::fmt;
use std::str::FromStr;

use crate::Repository;
use crate::{Digest, DigestError, Reference, ReferenceError, RegistryName, RegistryNameError, Tag};

/// Registry, repository, and tag or digest: `alpine`, `quay.io/team/app:v1`, `localhost:5000/app@sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageName {
    pub registry: RegistryName,
    pub repository: Repository,
    pub reference: Reference,
}

/// Why a text is no image's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageNameError {
    #[error("{0:?} names no repository")]
    NoRepository(String),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error(transparent)]
    Registry(#[from] RegistryNameError),
    #[error("in {text:?}: {source}")]
    Reference { text: String, source: ReferenceError },
}

impl FromStr for ImageName {
    type Err = ImageNameError;

    fn from_str(text: &str) -> Result<Self, ImageNameError> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>()?)),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            // A colon before a slash belongs to a port.
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
                (first, rest.to_owned())
            }
            Some(_) => ("docker.io", name.to_owned()),
            None => ("docker.io", format!("library/{name}")),
        };
        if repository.is_empty() {
            return Err(ImageNameError::NoRepository(text.to_owned()));
        }
        let wrong = |source| ImageNameError::Reference { text: text.to_owned(), source };
        let reference = match digest {
            Some(digest) => Reference::Digest(digest),
            None => Reference::Tag(tag.unwrap_or("latest").parse::<Tag>().map_err(wrong)?),
        };
        let registry = registry.parse()?;
        let repository = repository.parse().map_err(wrong)?;
        Ok(Self { registry, repository, reference })
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { registry, repository, reference } = self;
        match reference {
            Reference::Tag(tag) => write!(f, "{registry}/{repository}:{tag}"),
            Reference::Digest(digest) => write!(f, "{registry}/{repository}@{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_people_write_them() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        for (text, full) in [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("alpine:3.20", "docker.io/library/alpine:3.20".to_owned()),
            ("team/app", "docker.io/team/app:latest".to_owned()),
            ("quay.io/a/b:c", "quay.io/a/b:c".to_owned()),
            ("localhost:5000/a", "localhost:5000/a:latest".to_owned()),
            (&format!("localhost/a:t@{digest}"), format!("localhost/a@{digest}")),
        ] {
            assert_eq!(text.parse::<ImageName>().unwrap().to_string(), full, "{text}");
        }
        for text in ["", "quay.io/", "UPPER", "a:b:c", "a@sha256:12", "quay.io/a b"] {
            assert!(text.parse::<ImageName>().is_err(), "{text}");
        }
    }
}
