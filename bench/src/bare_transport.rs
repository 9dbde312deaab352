//! What the transport alone costs each end: chunks from memory, received and thrown away, over loopback.

use std::sync::Arc;
use std::sync::mpsc as std_mpsc;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use shoal_proto::message::{ChunkRequest, PeerInfo, Place};
use shoal_proto::{ChunkIndex, Digest, NodeId, SwarmId};
use shoal_transport::{
    Bulk, ChunkServer, Cluster, FetchedChunk, Identity, MutualTls, QuicConfig, QuicEndpoint, Served,
};
use tokio::sync::{mpsc, oneshot};

use crate::gib;
use crate::usage::thread_cpu_seconds;

/// The chunk size of blobs up to 1 GiB.
const CHUNK: u32 = 1 << 20;
/// In such blocks a store delivers.
const BLOCK: u32 = 128 << 10;
/// As many downloads as a node has at once.
const AT_ONCE: usize = 4;

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

fn runtime() -> Result<tokio::runtime::Runtime> {
    // One thread each, so that the thread's CPU time is that of its end.
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")
}

/// CPU seconds per GiB of the sender and of the receiver.
pub(crate) fn measure(size: u64) -> Result<(f64, f64)> {
    let chunks = size / u64::from(CHUNK);
    let (tell, told) = std_mpsc::channel();
    let (done, is_done) = oneshot::channel::<()>();
    let sender = std::thread::spawn(move || {
        runtime()?.block_on(async {
            let (node, endpoint) = endpoint(1)?;
            tell.send(PeerInfo { node, addresses: vec![endpoint.local_addr()], place: Place::default() })?;
            let before = thread_cpu_seconds()?;
            // Ends by a value or by the receiver's failure.
            let _ = is_done.await;
            Ok::<_, anyhow::Error>(thread_cpu_seconds()? - before)
        })
    });
    let receiver = std::thread::spawn(move || runtime()?.block_on(receive(told.recv()?, chunks, done)));
    let received = receiver.join().map_err(|_| anyhow!("the receiver panicked"))??;
    let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))??;
    Ok((sent / gib(size), received / gib(size)))
}

async fn receive(server: PeerInfo, chunks: u64, done: oneshot::Sender<()>) -> Result<f64> {
    let (_, client) = endpoint(2)?;
    let from = server.node;
    client.connect(server).await?;
    let swarm =
        SwarmId { digest: Digest::sha256([0; 32]), size: 1 << 30, origin: "bench.test".parse()?, round: 0 };
    let before = thread_cpu_seconds()?;
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
    let seconds = thread_cpu_seconds()? - before;
    // The sender may have failed; its own result says so.
    let _ = done.send(());
    Ok(seconds)
}
