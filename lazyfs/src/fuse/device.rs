//! The kernel's end of a mount, and how it passes from one process to the next.
//!
//! A mount lives as long as any process holds its descriptor. A process that is to serve it needs the descriptor and
//! the kernel's first request, INIT, which comes only once. So whoever mounts reads INIT, keeps both, and gives them
//! to a process that serves; and again to the next one if that dies. What the dead one had been asked and not
//! answered the kernel then asks again (Linux 6.9), so that no reader sees an error. Who keeps a descriptor must
//! never use the mount itself: it would wait for its own child.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::driver::Driver;
/// Larger than what the kernel insists on being able to hand over at once.
const BUFFER: usize = 64 << 10;
/// `FUSE_NOTIFY_RESEND` in `fuse_out_header`: length, code, and no request.
const RESEND: [u32; 4] = [16, 7, 0, 0];

/// The descriptor of a mount, and its INIT.
#[derive(Debug)]
pub struct Device {
    file: File,
    init: Vec<u8>,
}

impl Device {
    /// Mounts on a folder. Needs root.
    pub fn mount(at: &Path) -> io::Result<Self> {
        let mut file = File::options().read(true).write(true).open("/dev/fuse")?;
        // Permissions are the kernel's to check. Devices and set-id bits count where overlayfs shows the files.
        let options = format!(
            "fd={},rootmode=40755,user_id=0,group_id=0,default_permissions,allow_other",
            file.as_raw_fd()
        );
        let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOATIME;
        rustix::mount::mount("shoal", at, "fuse.shoal", flags, &*CString::new(options)?)?;
        let mut init = vec![0; BUFFER];
        let read = file.read(&mut init);
        match read {
            Ok(len) => init.truncate(len),
            Err(error) => {
                let _ = rustix::mount::unmount(at, UnmountFlags::DETACH);
                return Err(error);
            }
        }
        Ok(Self { file, init })
    }

    /// What another process mounted.
    pub fn from_parts(descriptor: OwnedFd, init: Vec<u8>) -> Self {
        Self { file: descriptor.into(), init }
    }

    /// To be given to a process that serves.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }

    /// To be given to a process that serves.
    pub fn init(&self) -> &[u8] {
        &self.init
    }

    /// A session that has read INIT from a pair of sockets, and then finds the mount in the socket's place.
    pub(super) fn session(
        &self,
        driver: Driver,
        config: fuser::Config,
    ) -> io::Result<fuser::Session<Driver>> {
        let flags = SocketFlags::CLOEXEC;
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let (mut ours, theirs) = (File::from(pair.0), pair.1);
        ours.write_all(&self.init)?;
        let session = fuser::Session::from_fd(driver, theirs, config.acl, config)?;
        let mut answer = vec![0; BUFFER];
        let len = ours.read(&mut answer)?;
        let mut device = &self.file;
        match device.write(answer.get(..len).unwrap_or_default()) {
            Ok(_) => {}
            // A process before this one has answered it.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOENT.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
        replace(&session, &self.file)?;
        let resend: Vec<u8> = RESEND.iter().flat_map(|word| word.to_ne_bytes()).collect();
        if let Err(error) = device.write(&resend) {
            tracing::debug!(%error, "the kernel does not ask again what was not answered");
        }
        Ok(session)
    }
}

/// Puts the mount in place of the session's descriptor.
#[allow(unsafe_code, reason = "the session does not give its descriptor away")]
fn replace(session: &fuser::Session<Driver>, device: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as the session, which outlives this; it is not closed here.
    let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(session.as_fd().as_raw_fd()) });
    Ok(rustix::io::dup3(device, &mut place, rustix::io::DupFlags::CLOEXEC)?)
}
