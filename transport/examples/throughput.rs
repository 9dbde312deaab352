//! Measures the chunk endpoint over the loopback interface: MiB/s, and CPU seconds per GiB of both ends.
//!
//! ```text
//! cargo run --release -p shoal-transport --example throughput -- [CHUNKS] [AT_ONCE] [MIB_PER_CHUNK]
//! ```
//! Both ends run in this process, each on its own thread. Linux only: CPU time comes from `/proc/self/stat`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "a tool")]

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use shoal_proto::message::{ChunkRequest, PeerInfo, Place};
use shoal_proto::{ChunkIndex, Digest, NodeId, SwarmId};
use shoal_transport::{
    Bulk, ChunkServer, Cluster, FetchedChunk, Identity, MutualTls, QuicConfig, QuicEndpoint, Served,
};
use tokio::sync::mpsc;

/// What a store reads and checks at once.
const BLOCK: usize = 128 << 10;

struct Zeros {
    len: usize,
}

impl ChunkServer for Zeros {
    fn serve(&self, _: NodeId, _: ChunkRequest) -> BoxFuture<'static, Served> {
        let block = Bytes::from_static(&[0; BLOCK]);
        let blocks = std::iter::repeat_n(block, self.len / BLOCK).map(Ok);
        let body = Box::pin(futures_util::stream::iter(blocks));
        Box::pin(std::future::ready(Served::Sending { len: self.len as u32, body }))
    }
}

fn endpoint(seed: u8, len: usize) -> (NodeId, QuicEndpoint) {
    let cluster = Cluster::insecure().unwrap();
    let tls = MutualTls::new(&cluster, &Identity::from_seed([seed; 32]).unwrap()).unwrap();
    let (events, mut heard) = mpsc::channel(16);
    tokio::spawn(async move { while heard.recv().await.is_some() {} });
    let config = QuicConfig::new("127.0.0.1:0".parse().unwrap());
    (tls.node(), QuicEndpoint::bind(config, &tls, Arc::new(Zeros { len }), events).unwrap())
}

/// CPU seconds of this process: user and system, in ticks of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().unwrap());
    let chunks = arguments.next().unwrap_or(512);
    let at_once = arguments.next().unwrap_or(4);
    let mib = arguments.next().unwrap_or(4);
    let len = mib << 20;

    let (server_id, server) = endpoint(1, len);
    let (_, client) = endpoint(2, len);
    let addresses = vec![server.local_addr()];
    client.connect(PeerInfo { node: server_id, addresses, place: Place::default() }).await.unwrap();
    let swarm = SwarmId {
        digest: Digest::sha256([0; 32]),
        size: 1 << 30,
        origin: "docker.io".parse().unwrap(),
        round: 0,
    };

    let fetch = |_| {
        let request = ChunkRequest { swarm: swarm.clone(), index: ChunkIndex(0) };
        client.fetch(server_id, request, len as u32)
    };
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let mut fetches = futures_util::stream::iter(0..chunks).map(fetch).buffer_unordered(at_once);
    while let Some(fetched) = fetches.next().await {
        assert!(matches!(fetched.unwrap(), FetchedChunk::Bytes(bytes) if bytes.len() == len));
    }
    let total = (chunks * mib) as f64;
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!("{:.0} MiB/s, {:.2} CPU-s/GiB", total / seconds, cpu / (total / 1024.0));
    println!("{:?}", client.links());
}
