//! The filesystem on FUSE: what the kernel asks is handed to [`LazyFs`](crate::fs::LazyFs) and back.
//!
//! Whatever is on this disk is answered by the thread that was asked. What has to be fetched is answered by a task,
//! so that reads of other files never wait behind it.

mod driver;

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;

use rustix::mount::{MountFlags, UnmountFlags};

use crate::fs::LazyFs;
use driver::Driver;

/// Threads that answer the kernel. They wait for this machine's disk at most, so a few more than cores do.
const THREADS: usize = 4;

/// A mount that is being served. It is served until it is unmounted and the last who uses it is gone.
#[derive(Debug)]
pub struct FuseMount {
    session: fuser::BackgroundSession,
}

impl FuseMount {
    /// Mounts on a folder. Needs root, and a tokio runtime for what is fetched.
    pub fn new(fs: Arc<LazyFs>, at: &Path) -> io::Result<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        // Permissions are the kernel's to check. Devices and set-id bits count where overlayfs shows the files.
        let options = format!(
            "fd={},rootmode=40755,user_id=0,group_id=0,default_permissions,allow_other",
            device.as_raw_fd()
        );
        let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
        rustix::mount::mount("shoal", at, "fuse.shoal", flags, &*CString::new(options)?)?;
        let served = Self::serve(fs, device);
        if served.is_err() {
            let _ = rustix::mount::unmount(at, UnmountFlags::DETACH);
        }
        served
    }

    fn serve(fs: Arc<LazyFs>, device: File) -> io::Result<Self> {
        let mut config = fuser::Config::default();
        config.acl = fuser::SessionACL::All;
        config.n_threads = Some(THREADS);
        let driver = Driver::new(fs, tokio::runtime::Handle::current());
        let session = fuser::Session::from_fd(driver, device.into(), config.acl, config)?;
        Ok(Self { session: session.spawn()? })
    }

    /// Waits until nobody uses it any more. Blocks.
    pub fn join(self) -> io::Result<()> {
        self.session.join()
    }
}
