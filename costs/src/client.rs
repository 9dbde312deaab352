//! The cheapest HTTP client there is, so that what is measured is the server: blocking, one connection, no copies.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// Longer than a whole transfer takes: a stall ends the run instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(120);
/// Headers longer than this are not from a server that is measured here.
const MAX_HEAD: usize = 16 << 10;
/// What is read from the socket at once.
pub(crate) const BUFFER: usize = 256 << 10;

/// A kept-alive connection to a server.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    /// `buffer` is what is read at once, in bytes.
    pub(crate) fn connect(address: SocketAddr, buffer: usize) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { address, stream, buffer: vec![0; buffer.max(MAX_HEAD)] })
    }

    /// One HEAD; an error unless it is answered 200.
    pub(crate) fn head(&mut self, path: &str) -> Result<()> {
        let (_, body, filled) = self.ask("HEAD", path)?;
        ensure!(body == filled, "HEAD {path}: a body came");
        Ok(())
    }

    /// Reads a whole body piece by piece; returns its length, which is the one that the server told.
    pub(crate) fn get(&mut self, path: &str, mut take: impl FnMut(&[u8])) -> Result<u64> {
        let (length, body, filled) = self.ask("GET", path)?;
        let first = self.buffer.get(body..filled).unwrap_or_default();
        take(first);
        let mut got = first.len() as u64;
        while got < length {
            let read = self.stream.read(&mut self.buffer).with_context(|| format!("GET {path}"))?;
            ensure!(read > 0, "GET {path}: ended after {got} of {length} bytes");
            take(self.buffer.get(..read).unwrap_or_default());
            got += read as u64;
        }
        ensure!(got == length, "GET {path}: {got} bytes came where {length} were told");
        Ok(length)
    }

    /// Returns the told length, where in the buffer the body starts, and the buffer's fill.
    fn ask(&mut self, method: &str, path: &str) -> Result<(u64, usize, usize)> {
        let address = self.address;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nAccept: */*\r\n\r\n");
        self.stream.write_all(request.as_bytes())?;
        let mut filled = 0;
        loop {
            let room = self.buffer.get_mut(filled..).unwrap_or_default();
            let read = self.stream.read(room).with_context(|| format!("{method} {path}"))?;
            ensure!(read > 0, "{method} {path}: no answer");
            filled += read;
            let so_far = self.buffer.get(..filled.min(MAX_HEAD)).unwrap_or_default();
            let Some(end) = so_far.windows(4).position(|four| four == b"\r\n\r\n") else {
                ensure!(filled < MAX_HEAD, "{method} {path}: endless headers");
                continue;
            };
            let head = String::from_utf8_lossy(so_far.get(..end).unwrap_or_default()).to_ascii_lowercase();
            ensure!(head.starts_with("http/1.1 200"), "{method} {path}: {head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length = length.with_context(|| format!("{method} {path}: no length"))?.trim().parse()?;
            return Ok((length, end + 4, filled));
        }
    }
}
