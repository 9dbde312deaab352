//! systemd keeps the mount's descriptor while this program restarts (sd_notify(3), FDSTORE). Then containers only
//! wait; without it the mount would end with its last descriptor, and they with it.

use std::env;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use listenfd::ListenFd;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// The service manager that started this program.
pub(super) struct Systemd {
    socket: UnixDatagram,
}

impl Systemd {
    pub(super) fn from_env() -> io::Result<Option<Self>> {
        let Some(path) = env::var_os("NOTIFY_SOCKET") else { return Ok(None) };
        let address = match path.to_str().and_then(|path| path.strip_prefix('@')) {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        Ok(Some(Self { socket }))
    }

    pub(super) fn ready(&self) -> io::Result<()> {
        self.socket.send(b"READY=1").map(drop)
    }

    /// Leaves a mount there until it has no users. systemd drops it by itself when it is gone.
    pub(super) fn store(&self, mount: &OwnedFd) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let mount = [mount.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&mount));
        let text = [IoSlice::new(b"FDSTORE=1\nFDNAME=mount")];
        sendmsg(&self.socket, &text, &mut ancillary, SendFlags::empty())?;
        Ok(())
    }
}

/// The mount that a process before this one left.
#[allow(unsafe_code, reason = "descriptors come by their numbers")]
pub(super) fn inherited() -> io::Result<Option<OwnedFd>> {
    let Some(descriptor) = ListenFd::from_env().take_raw_fd(0)? else { return Ok(None) };
    // SAFETY: systemd opened it for this process, and nothing else here takes what systemd passes.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    rustix::io::fcntl_setfd(&descriptor, rustix::io::FdFlags::CLOEXEC)?;
    Ok(Some(descriptor))
}
