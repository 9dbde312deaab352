//! The least that each step can cost on this machine, measured in the same run. CPU seconds per GiB of one thread.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use shoal_proto::{Algorithm, BLOCK_SIZE};
use shoal_store::ContentHasher;

use crate::client::BUFFER;
use crate::costs::Costs;
use crate::usage::thread_cpu_seconds;
use crate::{bare_transport, gib};

/// What is read, written or sent at once: as much as the daemon reads at once.
const PIECE: usize = 1 << 20;
/// Hashed again and again: larger than any cache, so that each byte comes from memory as in a daemon.
const WORKING_SET: usize = 128 << 20;

pub(crate) const WRITE: &str = "write a file, 1 MiB at once, synced at the end";
pub(crate) const READ: &str = "read a file from the page cache";
pub(crate) const BLAKE3: &str = "BLAKE3 of 128 KiB blocks";
pub(crate) const SHA256: &str = "SHA-256";
pub(crate) const TCP_SEND: &str = "TCP over loopback, sender";
pub(crate) const TCP_RECEIVE: &str = "TCP over loopback, receiver";
pub(crate) const QUIC_SEND: &str = "bare transport (QUIC), sender";
pub(crate) const QUIC_RECEIVE: &str = "bare transport (QUIC), receiver";

/// Measures all of them over `size` bytes, which are written to `folder`.
pub(crate) async fn measure(costs: &mut Costs, folder: &Path, size: u64) -> Result<()> {
    let (sent, received) = bare_transport::measure(size).await?;
    costs.record(QUIC_SEND, sent);
    costs.record(QUIC_RECEIVE, received);
    tokio::task::block_in_place(|| {
        costs.record(BLAKE3, blake3(size)?);
        costs.record(SHA256, sha256(size)?);
        let (sent, received) = tcp(size)?;
        costs.record(TCP_SEND, sent);
        costs.record(TCP_RECEIVE, received);
        let file = folder.join("floor");
        costs.record(WRITE, write(&file, size)?);
        costs.record(READ, read(&file, size)?);
        Ok(())
    })
}

/// Runs `work` and returns this thread's CPU seconds per GiB.
fn per_gib(size: u64, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let before = thread_cpu_seconds()?;
    work()?;
    Ok((thread_cpu_seconds()? - before) / gib(size))
}

fn pieces(size: u64, piece: usize) -> u64 {
    size / piece as u64
}

fn write(path: &Path, size: u64) -> Result<f64> {
    let piece = vec![7; PIECE];
    let mut file = File::create(path).with_context(|| format!("create {}", path.display()))?;
    per_gib(size, || {
        for _ in 0..pieces(size, PIECE) {
            file.write_all(&piece)?;
        }
        Ok(file.sync_data()?)
    })
}

fn read(path: &Path, size: u64) -> Result<f64> {
    let mut piece = vec![0; PIECE];
    let mut file = File::open(path)?;
    per_gib(size, || {
        while file.read(&mut piece)? > 0 {}
        Ok(())
    })
}

/// Calls `hash` with `size` bytes in all, in pieces of `piece` bytes.
fn over_memory(size: u64, piece: usize, mut hash: impl FnMut(&[u8])) -> Result<f64> {
    let mut memory = vec![0; WORKING_SET];
    fastrand::Rng::with_seed(1).fill(&mut memory);
    per_gib(size, || {
        memory.chunks_exact(piece).cycle().zip(0..pieces(size, piece)).for_each(|(piece, _)| hash(piece));
        Ok(())
    })
}

fn blake3(size: u64) -> Result<f64> {
    let block = usize::try_from(BLOCK_SIZE)?;
    over_memory(size, block, |piece| {
        std::hint::black_box(blake3::hash(piece));
    })
}

fn sha256(size: u64) -> Result<f64> {
    let mut hasher = ContentHasher::new(Algorithm::Sha256);
    let seconds = over_memory(size, PIECE, |piece| hasher.update(piece))?;
    std::hint::black_box(hasher.finish());
    Ok(seconds)
}

/// What the sender and the receiver of a TCP connection take.
fn tcp(size: u64) -> Result<(f64, f64)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let receiver = std::thread::spawn(move || -> Result<f64> {
        let mut stream = TcpStream::connect(address)?;
        let mut buffer = vec![0; BUFFER];
        let mut got = 0;
        let seconds = per_gib(size, || {
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    read => got += read as u64,
                }
            }
        })?;
        ensure!(got == pieces(size, PIECE) * PIECE as u64, "{got} bytes came over loopback");
        Ok(seconds)
    });
    let (mut stream, _) = listener.accept()?;
    let piece = vec![7; PIECE];
    let sent = per_gib(size, || {
        for _ in 0..pieces(size, PIECE) {
            stream.write_all(&piece)?;
        }
        Ok(())
    })?;
    drop(stream);
    Ok((sent, receiver.join().map_err(|_| anyhow!("the receiver panicked"))??))
}
