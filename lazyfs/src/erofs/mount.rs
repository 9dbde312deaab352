use std::ffi::CString;
use std::fmt::Debug;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use futures_util::future::BoxFuture;
use rustix::fs::{AtFlags, StatxFlags};
use rustix::mount::MountFlags;

use super::BLOCK;
use crate::{mountinfo, overlay};

/// What is to be mounted.
#[derive(Debug)]
pub struct ErofsMount {
    /// An [image](super::image); its name may go away once it is mounted.
    pub image: PathBuf,
    /// The tar with the bytes of its files.
    pub tar: PathBuf,
    pub at: PathBuf,
}

/// [Mounts](mount) in another process. It opens the tar: the process that serves that file would, if it were killed
/// meanwhile, wait for its own successor, which is started when it is gone.
pub trait Mounter: Debug + Send + Sync {
    fn mount(&self, mount: ErofsMount) -> BoxFuture<'static, io::Result<()>>;
}

/// Needs root.
pub fn mount(mount: &ErofsMount) -> io::Result<()> {
    let ErofsMount { image, tar, at } = mount;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    // Directly, and never otherwise: of a read that fails after a part of it the kernel shows the rest as zeros, and
    // keeps them, if it went through pages of the tar. Nor are pages kept twice.
    let options = CString::new([b"directio,device=", tar.as_os_str().as_bytes()].concat())?;
    Ok(rustix::mount::mount(image, at, "erofs", flags, &*options)?)
}

/// Whether this machine has EROFS on files in `folder`: mounts an image without files in `at` and unmounts it.
pub fn try_out(folder: &Path, at: &Path) -> io::Result<()> {
    let file = folder.join("try");
    let tried = || {
        fs::write(&file, super::empty_image())?;
        let found = rustix::fs::statx(rustix::fs::CWD, &file, AtFlags::empty(), StatxFlags::DIOALIGN)?;
        let align = found.stx_dio_offset_align as usize;
        // An image is read directly too.
        if align == 0 || align > BLOCK {
            let what = format!("files in {} are read directly in blocks of {align} bytes", folder.display());
            return Err(io::Error::other(what));
        }
        // What a process left that was killed here.
        while mountinfo::is_mounted(at)? {
            overlay::unmount(at)?;
        }
        fs::create_dir_all(at)?;
        let failed =
            |error| io::Error::other(format!("cannot mount EROFS from files (Linux 6.12 can): {error}"));
        mount(&ErofsMount { image: file.clone(), tar: file.clone(), at: at.to_owned() }).map_err(failed)?;
        overlay::unmount(at)?;
        fs::remove_dir(at)
    };
    let tried = tried();
    let _ = fs::remove_file(file);
    tried
}
