//! Where requests come in.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::{TcpListener, TcpSocket, UnixListener};

use crate::systemd::Inherited;

/// An address to listen at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// `127.0.0.1:5100`
    Tcp(SocketAddr),
    /// `unix:/run/shoal/mirror.sock`
    Unix(PathBuf),
    /// `systemd`: all sockets that systemd opened for this process; `systemd:name`: those of that name
    /// (`FileDescriptorName=`).
    Systemd(Option<String>),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address to listen at: write IP:PORT, unix:/absolute/path, systemd or systemd:NAME")]
pub struct ListenAddressError(String);

impl ListenAddress {
    pub const DEFAULT: Self = Self::Tcp(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 5100)));
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        let refuse = || ListenAddressError(text.into());
        match text.split_once(':') {
            None if text == "systemd" => Ok(Self::Systemd(None)),
            Some(("systemd", name)) if !name.is_empty() => Ok(Self::Systemd(Some(name.into()))),
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            _ => text.parse().map(Self::Tcp).map_err(|_| refuse()),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Systemd(None) => f.write_str("systemd"),
            Self::Systemd(Some(name)) => write!(f, "systemd:{name}"),
        }
    }
}

/// Why an address cannot be listened at.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen at {address}: {source}")]
    Bind { address: ListenAddress, source: io::Error },
    #[error("cannot listen at {0}: systemd passed no such socket; is the .socket unit active?")]
    NotInherited(ListenAddress),
}

/// One open socket.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    /// With a file, that is removed when the listener is dropped.
    Unix {
        listener: UnixListener,
        _file: Option<SocketFile>,
    },
}

/// The file of a socket that this process made.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "cannot remove the socket");
        }
    }
}

/// All open sockets.
#[derive(Debug)]
pub struct Listeners(pub(crate) Vec<Listener>);

// Enough for a node's clients to connect all at once; the kernel lowers it to its own bound.
const BACKLOG: u32 = 4096;

impl Listeners {
    /// Opens all addresses. Call it within a tokio runtime, once, and before anything else of the process
    /// reads the environment from C (as name lookups do): the variables that systemd set are removed.
    pub fn bind(addresses: &[ListenAddress]) -> Result<Self, ListenError> {
        let mut inherited = None;
        let mut listeners = Vec::new();
        for address in addresses {
            let failed = |source| ListenError::Bind { address: address.clone(), source };
            match address {
                ListenAddress::Tcp(tcp) => listeners.push(Listener::Tcp(bind_tcp(*tcp).map_err(failed)?)),
                ListenAddress::Unix(path) => listeners.push(bind_unix(path).map_err(failed)?),
                ListenAddress::Systemd(name) => {
                    let inherited = inherited.get_or_insert_with(Inherited::from_env);
                    let taken = inherited.take(name.as_deref()).map_err(failed)?;
                    if taken.is_empty() {
                        return Err(ListenError::NotInherited(address.clone()));
                    }
                    listeners.extend(taken);
                }
            }
        }
        Ok(Self(listeners))
    }

    /// The addresses of the TCP listeners, with the ports that were chosen for port 0.
    pub fn tcp_addresses(&self) -> Vec<SocketAddr> {
        let tcp = self.0.iter().filter_map(|listener| match listener {
            Listener::Tcp(tcp) => tcp.local_addr().ok(),
            Listener::Unix { .. } => None,
        });
        tcp.collect()
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A restart must not wait for the old connections' TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn bind_unix(path: &Path) -> io::Result<Listener> {
    // A daemon that was killed leaves its socket behind. One that lives answers, and is left alone.
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    Ok(Listener::Unix { listener, _file: Some(SocketFile(path.into())) })
}
