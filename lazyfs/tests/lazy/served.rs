//! A filesystem that the kernel asks, and folders over each other.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use shoal_lazyfs::fuse::{Device, FuseMount};
use shoal_lazyfs::images::Images;
use shoal_lazyfs::overlay;
use shoal_lazyfs::span_cache::Patience;

use super::source::Source;

/// Unmounted at the end.
pub(crate) struct Served {
    pub(crate) images: Images,
    pub(crate) at: PathBuf,
    mount: Option<FuseMount>,
}

impl Served {
    pub(crate) async fn new(folder: &Path, source: Arc<Source>, patience: Patience) -> Self {
        let at = folder.join("fs");
        fs::create_dir_all(&at).unwrap();
        let images = Images::open(&folder.join("cache"), source, patience).await.unwrap();
        let mount = FuseMount::serve(images.fs().clone(), &Device::mount(&at).unwrap()).unwrap();
        Self { images, at, mount: Some(mount) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        assert!(overlay::unmount(&self.at).unwrap(), "still in use");
        self.mount.take().unwrap().join().unwrap();
    }
}

/// Folders over each other, the lowest first; unmounted at the end.
pub(crate) struct Overlay(PathBuf);

impl Overlay {
    pub(crate) fn new(lower: &[PathBuf], at: PathBuf) -> Self {
        fs::create_dir_all(&at).unwrap();
        overlay::mount(lower, &at).unwrap();
        Self(at)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// As `shoal mount` does when it is told to end; says whether nobody used it.
    pub(crate) fn end(self) -> bool {
        let unused = overlay::unmount(&self.0).unwrap();
        std::mem::forget(self);
        unused
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        overlay::unmount(&self.0).unwrap();
    }
}

/// Whether anything can be mounted here. With `CI=true` it must.
pub(crate) fn can_mount() -> bool {
    let can = rustix::process::geteuid().is_root() && fs::File::open("/dev/fuse").is_ok();
    assert!(can || std::env::var("CI").as_deref() != Ok("true"), "needs root and /dev/fuse");
    can
}
