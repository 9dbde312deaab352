//! What the transport alone costs each end: chunks from memory, received and thrown away, over loopback.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use shoal_proto::message::{ChunkRequest, PeerInfo, Place};
use shoal_proto::{ChunkIndex, Digest, NodeId, SwarmId};
use shoal_transport::{
    Bulk, ChunkServer, Cluster, FetchedChunk, Identity, MutualTls, QuicConfig, QuicEndpoint, Served,
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::gib;
use crate::usage::cpu_seconds;

/// The chunk size of blobs from 128 MiB to 1 GiB.
const CHUNK: u32 = 1 << 20;
/// In such blocks a store delivers.
const BLOCK: u32 = 128 << 10;
/// As many downloads as a node has at once.
const AT_ONCE: usize = 4;
/// Seeds of the two ends' identities.
const SENDER_SEED: u8 = 1;
const RECEIVER_SEED: u8 = 2;

struct Zeros;

impl ChunkServer for Zeros {
    fn serve(&self, _: NodeId, _: ChunkRequest) -> BoxFuture<'static, Served> {
        let block = Bytes::from_static(&[0; BLOCK as usize]);
        let blocks = std::iter::repeat_n(block, (CHUNK / BLOCK) as usize).map(Ok);
        let body = Box::pin(futures_util::stream::iter(blocks));
        Box::pin(std::future::ready(Served::Sending { len: CHUNK, body }))
    }
}

fn endpoint(seed: u8) -> Result<(NodeId, QuicEndpoint)> {
    let cluster = Cluster::insecure()?;
    let tls = MutualTls::new(&cluster, &Identity::from_seed([seed; 32])?)?;
    let (events, mut heard) = mpsc::channel(16);
    tokio::spawn(async move { while heard.recv().await.is_some() {} });
    let config = QuicConfig::new("127.0.0.1:0".parse()?);
    Ok((tls.node(), QuicEndpoint::bind(config, &tls, Arc::new(Zeros), events)?))
}

/// The sender is this program, run once more with this argument.
pub(crate) const SENDER: &str = "--send-chunks";

/// CPU seconds per GiB of the sender and of the receiver. An endpoint has threads of its own, so each end is a process.
pub(crate) async fn measure(size: u64) -> Result<(f64, f64)> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(SENDER).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut sender = command.spawn().context("start the sender")?;
    let pid = sender.id().context("the sender ended at once")?;
    let stdout = sender.stdout.take().context("the sender has an output")?;
    let address = BufReader::new(stdout).lines().next_line().await?.context("the sender told no address")?;
    let before = cpu_seconds(pid)?;
    let received = receive(address.parse()?, size / u64::from(CHUNK)).await?;
    let sent = cpu_seconds(pid)? - before;
    // Its input closes, which ends it.
    drop(sender.stdin.take());
    sender.wait().await?;
    Ok((sent / gib(size), received / gib(size)))
}

/// Sends to whoever asks, until standard input ends.
pub(crate) async fn send() -> Result<()> {
    let (_, endpoint) = endpoint(SENDER_SEED)?;
    println!("{}", endpoint.local_addr());
    tokio::task::block_in_place(|| std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()))?;
    Ok(())
}

async fn receive(address: SocketAddr, chunks: u64) -> Result<f64> {
    let from = Identity::from_seed([SENDER_SEED; 32])?.node();
    let (_, client) = endpoint(RECEIVER_SEED)?;
    client.connect(PeerInfo { node: from, addresses: vec![address], place: Place::default() }).await?;
    let swarm =
        SwarmId { digest: Digest::sha256([0; 32]), size: 1 << 30, origin: "bench.test".parse()?, round: 0 };
    let me = std::process::id();
    let before = cpu_seconds(me)?;
    let fetch = |_| {
        let request = ChunkRequest { swarm: swarm.clone(), index: ChunkIndex(0) };
        client.fetch(from, request, CHUNK)
    };
    let mut fetches = futures_util::stream::iter(0..chunks).map(fetch).buffer_unordered(AT_ONCE);
    while let Some(fetched) = fetches.next().await {
        match fetched? {
            FetchedChunk::Bytes(bytes) if bytes.len() == CHUNK as usize => {}
            other => bail!("the bare transport delivered {other:?}"),
        }
    }
    Ok(cpu_seconds(me)? - before)
}
