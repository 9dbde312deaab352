use shoal_store::{OpenError, Store, StoreConfig};

use crate::blobs::open;

#[test]
fn a_second_store_on_one_folder_is_refused_with_the_folders_name() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let error = Store::open(StoreConfig::new(dir.path())).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }));
    assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    drop(first);
    open(dir.path());
}
