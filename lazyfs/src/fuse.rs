//! The filesystem on FUSE: what the kernel asks is handed to [`LazyFs`](crate::fs::LazyFs) and back.
//!
//! Whatever is on this disk is answered by the thread that was asked. What has to be fetched is answered by a task,
//! so that reads of other files never wait behind it.

mod device;
mod driver;

use std::io;
use std::sync::Arc;

use crate::fs::LazyFs;
use driver::Driver;

pub use device::Device;

/// Threads that answer the kernel. They wait for this machine's disk at most, so a few more than cores do.
const THREADS: usize = 4;

/// A mount that this process serves, until it is unmounted and the last who uses it is gone.
#[derive(Debug)]
pub struct FuseMount {
    session: fuser::BackgroundSession,
}

impl FuseMount {
    /// Serves a mount, whether or not another process did before. Needs a tokio runtime for what is fetched.
    pub fn serve(fs: Arc<LazyFs>, device: &Device) -> io::Result<Self> {
        let mut config = fuser::Config::default();
        config.acl = fuser::SessionACL::All;
        // Never a descriptor of its own for each thread (`clone_fd`): requests that one of those had read would be
        // lost with the process.
        config.n_threads = Some(THREADS);
        let driver = Driver::new(fs, tokio::runtime::Handle::current());
        Ok(Self { session: device.session(driver, config)?.spawn()? })
    }

    /// Waits until nobody uses it any more. Blocks.
    pub fn join(self) -> io::Result<()> {
        self.session.join()
    }
}
