//! Which registry and repository a path means, and that no text leads to a name that is none.

use proptest::prelude::*;
use shoal_proto::{Reference, RegistryName, Repository};

use super::shelf::{Shelf, digest_of};
use crate::registry;
use crate::route::{Route, What};

/// Registry, repository and kind that a request resolves to, or the error's code.
fn means(shelf: &Shelf, path: &str, query: &str) -> Result<(RegistryName, Repository, What), &'static str> {
    let named = match Route::parse(path, query) {
        Ok(Route::Named(named)) => named,
        Ok(Route::Ping) => return Err("PING"),
        Err(error) => return Err(crate::refusal::Failure::from(error).status_and_code().1),
    };
    let (registry, repository) =
        registry::resolve(shelf, &named).map_err(|failure| failure.status_and_code().1)?;
    Ok((registry, repository, named.what))
}

#[test]
fn every_way_to_name_a_registry() {
    let default = |default| Shelf { default: Some(default), ..Shelf::default() };
    let (hub, own) = (default("docker.io"), default("registry.test"));
    for (shelf, name, query, registry, repository) in [
        // containerd: ns decides.
        (&hub, "library/app", "ns=docker.io", "docker.io", "library/app"),
        (&hub, "team/app", "ns=registry.test:5000", "registry.test:5000", "team/app"),
        (&hub, "team/app", "ns=%5B%3A%3A1%5D%3A5000", "[::1]:5000", "team/app"),
        (&hub, "app", "ns=registry.test", "registry.test", "app"),
        (&hub, "app", "ns=index.docker.io", "docker.io", "library/app"),
        // … even if the repository looks like a registry, unless it is that registry.
        (&hub, "docker.io/library/app", "ns=registry.test", "registry.test", "docker.io/library/app"),
        (&hub, "registry.test/team/app", "ns=registry.test", "registry.test", "team/app"),
        // c/image: the path's beginning.
        (&hub, "registry.test/team/app", "", "registry.test", "team/app"),
        (&hub, "registry.test:5000/app", "", "registry.test:5000", "app"),
        (&hub, "localhost/app", "", "localhost", "app"),
        (&hub, "docker.io/app", "", "docker.io", "library/app"),
        (&own, "docker.io/library/app", "", "docker.io", "library/app"),
        (&own, "registry.test/docker.io/app", "", "registry.test", "docker.io/app"),
        // The default.
        (&hub, "app", "", "docker.io", "library/app"),
        (&hub, "team/app", "", "docker.io", "team/app"),
        (&own, "app", "", "registry.test", "app"),
        (&own, "a.project/app", "", "registry.test", "a.project/app"),
        // A repository may be called like a route.
        (&hub, "team/manifests/tags", "", "docker.io", "team/manifests/tags"),
    ] {
        let (found, path, what) = means(shelf, &format!("/v2/{name}/manifests/v1"), query).unwrap();
        assert_eq!((found.as_str(), path.as_str()), (registry, repository), "{name}?{query}");
        assert_eq!(what, What::Manifest("v1".parse().unwrap()));
    }
}

#[test]
fn registries_that_are_not_admitted() {
    let own = Shelf { default: Some("registry.test"), ..Shelf::default() };
    for (shelf, name, query) in [
        (&Shelf::default(), "app", "ns=evil.test"),
        (&Shelf::default(), "evil.test/app", ""),
        (&Shelf::default(), "127.0.0.1:22/app", ""),
        (&own, "evil.test:443/app", ""),
    ] {
        let refused = means(shelf, &format!("/v2/{name}/tags/list"), query);
        assert_eq!(refused.unwrap_err(), "DENIED", "{name}?{query}");
    }
}

#[test]
fn ns_does_not_travel_on() {
    let Ok(Route::Named(named)) = Route::parse("/v2/a/tags/list", "n=5&ns=docker.io&last=x+y%26") else {
        panic!("not parsed");
    };
    assert_eq!(named.query, "n=5&last=x+y%26");
}

fn fragments() -> impl Strategy<Value = String> {
    let fragment = prop_oneof![
        Just("/"),
        Just("/v2/"),
        Just("library"),
        Just("a.b:80"),
        Just("localhost"),
        Just("registry.test"),
        Just("manifests"),
        Just("blobs"),
        Just("tags/list"),
        Just("referrers"),
        Just("latest"),
        Just(".."),
        Just("%2f"),
        Just("%2e%2e"),
        Just("%00"),
        Just("%"),
        Just("%25"),
        Just("é"),
        Just(":"),
        Just("sha256:"),
        Just("sha256:abababababababababababababababababababababababababababababababab"),
    ];
    let any = prop_oneof![3 => fragment.prop_map(String::from), 1 => ".{0,4}".prop_map(String::from)];
    prop::collection::vec(any, 0..9).prop_map(|parts| format!("/v2/{}", parts.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn whatever_is_parsed_is_a_name(path in fragments(), query in "(ns=|n=|&|%|registry.test|docker.io|.){0,6}") {
        if let Ok((registry, repository, what)) = means(&Shelf::default(), &path, &query) {
            prop_assert!(registry.as_str().parse::<RegistryName>().is_ok());
            prop_assert!(repository.as_str().parse::<Repository>().is_ok());
            prop_assert!(!repository.as_str().contains(".."));
            if let What::Manifest(Reference::Tag(tag)) = what {
                prop_assert!(!tag.as_str().contains(['/', '%', ':']));
            }
        }
    }

    #[test]
    fn names_survive_any_percent_encoding(
        name in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){1,3}",
        escape in prop::collection::vec(any::<bool>(), 256),
    ) {
        let plain = format!("{name}/blobs/{}", digest_of(0xab));
        let escaped: String = plain.chars().zip(escape.iter().cycle()).map(|(c, escape)| match escape {
            true => format!("%{:02x}", u32::from(c)),
            false => c.to_string(),
        }).collect();
        let (_, repository, what) = means(&Shelf::default(), &format!("/v2/{escaped}"), "").unwrap();
        prop_assert_eq!(repository.as_str(), name);
        prop_assert_eq!(what, What::Blob(digest_of(0xab)));
    }
}
