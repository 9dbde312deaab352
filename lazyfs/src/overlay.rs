//! Layers over each other, by the kernel's overlayfs.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

/// Bytes of options that mount(2) takes, with the zero at their end.
const MAX_OPTIONS: usize = 4096;

#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    #[error("overlayfs takes no folder whose path holds a colon, a comma or a backslash: {}", .0.display())]
    Path(PathBuf),
    #[error("overlayfs takes no more than {MAX_OPTIONS} bytes of paths; {0} layers have more")]
    TooMany(usize),
    #[error("cannot mount on {}: {error}", at.display())]
    Mount { at: PathBuf, error: io::Error },
}

/// Shows folders over each other at `at`, to be read only. The lowest comes first. It is for looking at: set-id bits
/// and devices of an image that nobody vouched for must not count on this machine.
pub fn mount(lowest_first: &[PathBuf], at: &Path) -> Result<(), OverlayError> {
    // Folders of several filesystems have numbers of inodes as if they were of one.
    let mut options = b"xino=on,lowerdir=".to_vec();
    for (number, folder) in lowest_first.iter().rev().enumerate() {
        let path = folder.as_os_str().as_bytes();
        if path.iter().any(|byte| matches!(byte, b':' | b',' | b'\\')) {
            return Err(OverlayError::Path(folder.clone()));
        }
        if number > 0 {
            options.push(b':');
        }
        options.extend_from_slice(path);
    }
    if options.len() >= MAX_OPTIONS {
        return Err(OverlayError::TooMany(lowest_first.len()));
    }
    let failed = |error| OverlayError::Mount { at: at.to_owned(), error };
    let options = CString::new(options).map_err(|error| failed(error.into()))?;
    let mounted = rustix::mount::mount(
        "shoal",
        at,
        "overlay",
        MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV,
        &*options,
    );
    mounted.map_err(|errno| failed(errno.into()))
}

/// Unmounts. False if it is still used: then it is gone for everybody else, and wholly so when they are done.
pub fn unmount(at: &Path) -> io::Result<bool> {
    match rustix::mount::unmount(at, UnmountFlags::empty()) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::BUSY) => Ok(rustix::mount::unmount(at, UnmountFlags::DETACH).map(|()| false)?),
        Err(errno) => Err(errno.into()),
    }
}
