//! What is known of public registries without asking them.

use shoal_proto::{RegistryName, Repository};

const DOCKER_HUB: &str = "docker.io";

// Pulled from without being configured, unless the configuration has a list of its own.
const PUBLIC: [&str; 16] = [
    DOCKER_HUB,
    "cgr.dev",
    "docker.elastic.co",
    "gcr.io",
    "ghcr.io",
    "k8s.gcr.io",
    "lscr.io",
    "mcr.microsoft.com",
    "nvcr.io",
    "public.ecr.aws",
    "quay.io",
    "registry.access.redhat.com",
    "registry.gitlab.com",
    "registry.k8s.io",
    "registry.redhat.io",
    "xpkg.upbound.io",
];

pub(crate) fn is_public_registry(name: &RegistryName) -> bool {
    PUBLIC.contains(&name.as_str())
}

/// Docker Hub has several names; images and configuration call it `docker.io`.
pub(crate) fn canonical_name(name: &RegistryName) -> Option<RegistryName> {
    matches!(name.as_str(), "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com")
        .then(|| DOCKER_HUB.parse().ok())
        .flatten()
}

/// The host that answers the API of a registry.
pub(crate) fn api_host(name: &RegistryName) -> &str {
    if name.as_str() == DOCKER_HUB { "registry-1.docker.io" } else { name.as_str() }
}

/// Docker Hub keeps the images with a bare name under `library/`.
pub(crate) fn canonical_repository(name: &RegistryName, repository: &Repository) -> Repository {
    let bare = name.as_str() == DOCKER_HUB && !repository.as_str().contains('/');
    let full = bare.then(|| format!("library/{repository}").parse().ok()).flatten();
    full.unwrap_or_else(|| repository.clone())
}

/// The keys under which docker's configuration may keep the credentials for a registry.
pub(crate) fn credential_names(name: &RegistryName) -> Vec<&str> {
    if name.as_str() == DOCKER_HUB {
        vec!["index.docker.io", DOCKER_HUB, "registry-1.docker.io"]
    } else {
        vec![name.as_str()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hub_has_its_own_host_and_library() {
        let hub: RegistryName = "docker.io".parse().unwrap();
        let quay: RegistryName = "quay.io".parse().unwrap();
        let bare: Repository = "alpine".parse().unwrap();
        assert_eq!(api_host(&hub), "registry-1.docker.io");
        assert_eq!(canonical_repository(&hub, &bare).as_str(), "library/alpine");
        assert_eq!(canonical_repository(&hub, &"a/b".parse().unwrap()).as_str(), "a/b");
        assert_eq!(canonical_repository(&quay, &bare).as_str(), "alpine");
        assert_eq!(canonical_name(&"index.docker.io".parse().unwrap()), Some(hub));
    }
}
