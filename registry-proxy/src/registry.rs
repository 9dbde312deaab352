//! Which registry and repository a request means.

use shoal_proto::{RegistryName, Repository};

use crate::refusal::{Failure, RequestError};
use crate::route::Named;
use crate::{Backend, Refusal};

const DOCKER_HUB: &str = "docker.io";

/// The registry and repository of a request:
/// 1. by `ns`, which containerd adds. The path is then the repository as it stands, unless it begins with
///    that very registry: a host with `override_path` and a prefix sends both.
/// 2. by the path's first component, which is how c/image and others name one of several upstreams: if
///    it looks like a registry (RFC 3986 host with a dot or port, or `localhost`) and the backend admits it.
///    Where the default registry has a repository of such a name the prefix wins; write the default
///    registry in front to mean the repository.
/// 3. the default registry.
pub(crate) fn resolve<B: Backend>(backend: &B, named: &Named) -> Result<(RegistryName, Repository), Failure> {
    let (registry, repository) = match &named.ns {
        Some(ns) => (backend.admit(ns)?, strip_registry(&named.name, ns)),
        None => by_path(backend, &named.name)?,
    };
    let repository = if registry.as_str() == DOCKER_HUB && !repository.contains('/') {
        parse(&format!("library/{repository}"))?
    } else {
        parse(repository)?
    };
    Ok((registry, repository))
}

fn by_path<'a, B: Backend>(backend: &B, name: &'a str) -> Result<(RegistryName, &'a str), Failure> {
    let default = backend.default_registry();
    let Some((first, rest)) = name.split_once('/') else { return Ok((default, name)) };
    if !first.contains(['.', ':']) && first != "localhost" {
        return Ok((default, name));
    }
    let Ok(registry) = first.parse::<RegistryName>() else { return Ok((default, name)) };
    match backend.admit(&registry) {
        Ok(admitted) => Ok((admitted, rest)),
        // No user of Docker Hub has a dot in the name, so this can only be a registry that is not admitted,
        // and saying so helps more than the 404 that Docker Hub would answer.
        Err(refusal) if first.contains(':') || default.as_str() == DOCKER_HUB => Err(refusal.into()),
        Err(Refusal::NotAllowed { .. }) => Ok((default, name)),
        Err(refusal) => Err(refusal.into()),
    }
}

fn strip_registry<'a>(name: &'a str, registry: &RegistryName) -> &'a str {
    match name.split_once('/') {
        Some((first, rest)) if first == registry.as_str() => rest,
        _ => name,
    }
}

fn parse(repository: &str) -> Result<Repository, RequestError> {
    repository
        .parse()
        .map_err(|error: shoal_proto::ReferenceError| RequestError::NameInvalid(error.to_string()))
}
