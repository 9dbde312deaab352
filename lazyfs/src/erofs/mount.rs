use std::ffi::CString;
use std::fmt::Debug;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use futures_util::future::BoxFuture;
use rustix::mount::MountFlags;

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

/// Needs root, and Linux 6.12 with EROFS on files.
pub fn mount(mount: &ErofsMount) -> io::Result<()> {
    let ErofsMount { image, tar, at } = mount;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
    let with = |options: &[u8]| {
        let options = CString::new([options, b"device=", tar.as_os_str().as_bytes()].concat())?;
        Ok(rustix::mount::mount(image, at, "erofs", flags, &*options)?)
    };
    // Directly: else the tar's own pages take memory beside those of the files. Kernels before 6.15 cannot.
    with(b"directio,").or_else(|_: io::Error| with(b""))
}
