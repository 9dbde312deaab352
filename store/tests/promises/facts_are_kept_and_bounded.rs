use shoal_proto::RegistryName;
use shoal_store::Tag;

use crate::blobs::{Blob, open};

#[test]
fn facts_survive_a_restart_and_belong_to_their_repository() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two): (RegistryName, RegistryName) =
        ("one.example".parse().unwrap(), "two.example".parse().unwrap());
    let digest = Blob::new(1, 10).swarm.digest;
    let tag = Tag { digest, size: 10, media_type: "application/json".into(), resolved_at: 7, public: true };
    {
        let store = open(dir.path());
        store.put_tag(&one, "library/app", "latest", &tag).unwrap();
        store.put_link(&one, "library/app", &digest, 10).unwrap();
        store.put_anonymous(&one, "library/app", 99).unwrap();
        assert_eq!(store.tag(&one, "library/app", "latest").unwrap(), Some(tag.clone()));
    }
    let store = open(dir.path());
    assert_eq!(store.tag(&one, "library/app", "latest").unwrap(), Some(tag));
    assert_eq!(store.link(&one, "library/app", &digest).unwrap(), Some(10));
    assert_eq!(store.anonymous(&one, "library/app").unwrap(), Some(99));
    for (registry, repository) in [(&two, "library/app"), (&one, "library"), (&one, "library/app2")] {
        assert_eq!(store.tag(registry, repository, "latest").unwrap(), None);
        assert_eq!(store.link(registry, repository, &digest).unwrap(), None);
        assert_eq!(store.anonymous(registry, repository).unwrap(), None);
    }
}

#[test]
fn facts_are_bounded_and_the_newest_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let registry: RegistryName = "one.example".parse().unwrap();
    let name = |number: u64| format!("library/app{number}");
    for number in 0..12_000 {
        store.put_anonymous(&registry, &name(number), number).unwrap();
    }
    let known =
        (0..12_000).filter(|number| store.anonymous(&registry, &name(*number)).unwrap().is_some()).count();
    assert!((5_000..=10_000).contains(&known), "{known}");
    assert_eq!(store.anonymous(&registry, &name(11_999)).unwrap(), Some(11_999));
    assert_eq!(store.anonymous(&registry, &name(0)).unwrap(), None);
}
