use std::os::unix::fs::PermissionsExt;

use shoal_transport::{Identity, IdentityError};

#[test]
fn in_a_file_that_only_its_owner_reads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.key");
    let made = Identity::load_or_create(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Identity::load_or_create(&path).unwrap().node(), made.node());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left behind");
}

#[test]
fn by_all_who_start_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.key");
    let nodes = std::thread::scope(|scope| {
        let starts: Vec<_> =
            (0..8).map(|_| scope.spawn(|| Identity::load_or_create(&path).unwrap().node())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(nodes.iter().all(|node| *node == nodes[0]), "{nodes:?}");
}

#[test]
fn and_a_damaged_file_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.key");
    for content in ["", "garbage", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        std::fs::write(&path, content).unwrap();
        let error = Identity::load_or_create(&path).unwrap_err();
        assert!(matches!(error, IdentityError::NotAKey { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
    }
}

#[test]
fn where_no_file_can_be_made_the_path_is_named() {
    let error = Identity::load_or_create("/nowhere/node.key".as_ref()).unwrap_err();
    assert!(matches!(error, IdentityError::Create { .. }), "{error}");
    assert!(error.to_string().contains("/nowhere/node.key"), "{error}");
}

#[test]
fn and_is_never_shown() {
    let identity = Identity::from_seed([7; 32]).unwrap();
    assert_eq!(format!("{identity:?}"), format!("Identity({})", identity.node()));
}
