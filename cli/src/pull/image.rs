//! Names of images, as people write them.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, bail};
use shoal_proto::{Digest, Reference, RegistryName, Repository, Tag};

/// Registry, repository, and tag or digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageName {
    pub registry: RegistryName,
    pub repository: Repository,
    pub reference: Reference,
}

/// `linux/amd64` and the like: what the image of this machine is called.
pub(crate) fn host_platform() -> String {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{architecture}")
}

/// Checks that a platform is written as os/architecture.
pub(crate) fn platform(text: &str) -> Result<String, String> {
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric());
    match text.split_once('/') {
        Some((os, architecture)) if plain(os) && plain(architecture) => Ok(text.to_owned()),
        _ => Err("write os/architecture, such as linux/arm64".to_owned()),
    }
}

/// Host and port, as they go into a URL.
pub(crate) fn host_and_port(text: &str) -> anyhow::Result<&str> {
    if text.contains('/') {
        bail!("{text:?}: write HOST:PORT, without http:// and without a path");
    }
    Ok(text)
}

impl FromStr for ImageName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
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
            bail!("{text:?} names no repository");
        }
        let reference = match digest {
            Some(digest) => Reference::Digest(digest),
            None => Reference::Tag(tag.unwrap_or("latest").parse::<Tag>()?),
        };
        let registry = registry.parse()?;
        let repository = repository.parse().with_context(|| format!("in {text:?}"))?;
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
