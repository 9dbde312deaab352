//! Only registries on the list are asked, and only so many are remembered.

use super::*;
use crate::{Failure, Refusal};

fn origins(config: &str) -> Origins {
    Origins::new(toml::from_str(&format!("system_proxy = false\n{config}")).unwrap()).unwrap()
}

fn admits(origins: &Origins, name: &str) -> bool {
    match origins.admit(&name.parse().unwrap()) {
        Ok(origin) => origin.name().as_str() == name,
        Err(error) => {
            assert!(matches!(error.failure(), Failure::Refused(Refusal::NotAllowed(_))), "{error}");
            false
        }
    }
}

#[tokio::test]
async fn without_a_list_the_configured_and_the_well_known() {
    let origins = origins("[registries.'r.example:5000']");
    assert_eq!(origins.default_registry().as_str(), "docker.io");
    for (name, admitted) in [
        ("r.example:5000", true),
        ("docker.io", true),
        ("ghcr.io", true),
        ("r.example", false),
        ("evil.example", false),
    ] {
        assert_eq!(admits(&origins, name), admitted, "{name}");
    }
}

#[tokio::test]
async fn a_list_replaces_the_well_known() {
    let origins = origins("allow = ['a.example']\ndefault_registry = 'd.example'\n[registries.'r.example']");
    for (name, admitted) in [
        ("a.example", true),
        ("r.example", true),
        ("d.example", true),
        ("ghcr.io", false),
        ("docker.io", false),
    ] {
        assert_eq!(admits(&origins, name), admitted, "{name}");
    }
}

#[tokio::test]
async fn an_origin_is_made_once_and_only_so_many_are_kept() {
    let origins = origins("allow = ['*']");
    let name = "a.example".parse().unwrap();
    let first = origins.admit(&name).unwrap();
    for n in 0..100 {
        assert!(admits(&origins, &format!("r{n}.example")));
        assert!(Arc::ptr_eq(&first, &origins.admit(&name).unwrap()), "what is in use stays");
    }
    assert_eq!(origins.counters().len(), 64);
}

#[tokio::test]
async fn docker_hub_is_one_registry_under_all_its_names() {
    let origins = origins("[registries.'index.docker.io']\nplain_http = true");
    let first = origins.admit(&"docker.io".parse().unwrap()).unwrap();
    let second = origins.admit(&"registry-1.docker.io".parse().unwrap()).unwrap();
    assert!(Arc::ptr_eq(&first, &second));
    assert_eq!(first.canonical_repository(&"app".parse().unwrap()).as_str(), "library/app");
}
