//! Sockets inherited from systemd (sd_listen_fds(3)). They outlive this process, so that clients which
//! connect while it restarts wait instead of failing.

use std::io;

use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener};

use crate::listen::Listener;

/// What systemd passed and nobody took yet.
pub(crate) struct Inherited {
    sockets: ListenFd,
    names: Vec<String>,
}

impl Inherited {
    /// Takes over `LISTEN_FDS`, `LISTEN_PID` and `LISTEN_FDNAMES`.
    pub(crate) fn from_env() -> Self {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        Self { sockets: ListenFd::from_env(), names: names.split(':').map(str::to_owned).collect() }
    }

    /// The sockets of that name that are left, or all that are left.
    pub(crate) fn take(&mut self, name: Option<&str>) -> io::Result<Vec<Listener>> {
        let mut taken = Vec::new();
        for index in 0..self.sockets.len() {
            let named = self.names.get(index).map(String::as_str);
            if name.is_none() || name == named {
                taken.extend(self.take_at(index)?);
            }
        }
        Ok(taken)
    }

    fn take_at(&mut self, index: usize) -> io::Result<Option<Listener>> {
        // Asked first for what it is not, the manager answers with an error and keeps the socket.
        if let Ok(unix) = self.sockets.take_unix_listener(index) {
            return unix.map(unix_listener).transpose();
        }
        self.sockets.take_tcp_listener(index)?.map(tcp_listener).transpose()
    }
}

fn tcp_listener(socket: std::net::TcpListener) -> io::Result<Listener> {
    socket.set_nonblocking(true)?;
    Ok(Listener::Tcp(TcpListener::from_std(socket)?))
}

/// Its file is systemd's.
fn unix_listener(socket: std::os::unix::net::UnixListener) -> io::Result<Listener> {
    socket.set_nonblocking(true)?;
    Ok(Listener::Unix { listener: UnixListener::from_std(socket)?, _file: None })
}
