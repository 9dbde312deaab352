//! Memory of a scheduler with many nodes: real sessions over gRPC, whose nodes join swarms and answer leases as if
//! they had read from an origin, but move no bytes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use shoal_proto::message::{Held, Lease, Membership, NodeMessage, PeerInfo, Place, TrackerMessage};
use shoal_proto::{Attestation, ChunkIndex, ChunkSet, ChunkValue, Digest, Entry, Keypair, NodeId, SwarmId};
use shoal_transport::{Identity, MutualTls, grpc};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;

use crate::Bench;
use crate::cluster::Cluster;
use crate::memory::mib;
use crate::report::Aim;
use crate::usage::{PeakMemory, anonymous_memory};

const NODES: u16 = 200;
const ZONES: u16 = 4;
/// Nodes pull one of these images each.
const IMAGES: u8 = 4;
const LAYERS: u8 = 10;
/// 256 chunks.
const LAYER: u64 = 256 << 20;
/// Nodes come within this time, as at the start of a job.
const ARRIVE: Duration = Duration::from_secs(2);
/// After their arrival nodes fetch for this long; then each says that its blobs are complete.
const PULL: Duration = Duration::from_secs(8);
/// Then they stay.
const STAY: Duration = Duration::from_secs(3);
/// A chunk of a lease takes so long to read.
const READ: Duration = Duration::from_millis(5);
/// Messages that wait for a session.
const OUTGOING: usize = 1024;

pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    bench.report.section("A scheduler (RssAnon)");
    let mut cluster = Cluster::new(bench.folder())?;
    let scheduler = cluster.scheduler().await?;
    sleep(Duration::from_secs(1)).await;
    bench.report.add("idle", mib(anonymous_memory(scheduler.pid)?), "MiB");
    let (secret, url) = (cluster.secret_file(), format!("https://{}", scheduler.address));
    let watch = PeakMemory::watch(scheduler.pid);
    let cpu = scheduler.cpu_seconds()?;
    let began = Instant::now();
    let nodes = (0..NODES).map(|number| {
        let node = SimulatedNode::new(number, &secret, began);
        let url = url.clone();
        async move { tokio::spawn(node?.run(url)).await? }
    });
    let received: u64 = try_join_all(nodes).await?.into_iter().sum();
    let after = anonymous_memory(scheduler.pid)?;
    bench.report.add_aimed(
        format!("peak with {NODES} nodes that pull {IMAGES} images of {LAYERS} layers"),
        mib(watch.peak()?),
        "MiB",
        Aim::Below(100.0),
    );
    bench.report.add("with all images complete on all nodes", mib(after), "MiB");
    bench.report.add("CPU over the whole time", scheduler.cpu_seconds()? - cpu, "CPU-s");
    bench.report.add("messages to nodes", received as f64, "");
    Ok(())
}

struct SimulatedNode {
    info: PeerInfo,
    key: Keypair,
    tls: MutualTls,
    number: u16,
    began: Instant,
}

impl SimulatedNode {
    fn new(number: u16, secret: &Path, began: Instant) -> Result<Self> {
        let mut seed = [7; 32];
        let [high, low] = number.to_be_bytes();
        (seed[0], seed[1]) = (high, low);
        let identity = Identity::from_seed(seed)?;
        let tls = MutualTls::new(&shoal_transport::Cluster::from_file(secret)?, &identity)?;
        let key = Keypair::ed25519_from_bytes(seed)?;
        let place = Place {
            zone: format!("zone-{}", number % ZONES).into(),
            rack: format!("rack-{}", number % (ZONES * 10)).into(),
        };
        // Nobody calls it.
        let addresses = vec![SocketAddr::from(([127, 0, 0, 1], 9))];
        let info = PeerInfo { node: tls.node(), addresses, place };
        Ok(Self { info, key, tls, number, began })
    }

    fn swarms(&self) -> Result<Vec<SwarmId>> {
        let [_, image] = (self.number % u16::from(IMAGES)).to_be_bytes();
        let swarm = |layer| {
            let mut hash = [image; 32];
            hash[0] = layer;
            Ok(SwarmId { digest: Digest::sha256(hash), size: LAYER, origin: "bench.test".parse()?, round: 0 })
        };
        (0..LAYERS).map(swarm).collect()
    }

    /// Takes part until the end; returns how many messages came.
    async fn run(self, url: String) -> Result<u64> {
        sleep_until(self.began + ARRIVE.mul_f64(f64::from(self.number) / f64::from(NODES))).await;
        let mut tracker = grpc::connect(&url, &self.tls).await?;
        let (outgoing, messages) = mpsc::channel(OUTGOING);
        outgoing.send(NodeMessage::Hello(self.info.clone())).await?;
        let messages = ReceiverStream::new(messages).map(|message| (&message).into());
        let mut incoming = tracker.session(messages).await?.into_inner();
        let swarms = self.swarms()?;
        outgoing.send(NodeMessage::Join(swarms.iter().cloned().map(joins).collect())).await?;
        outgoing.send(NodeMessage::Reported).await?;

        let (pulled, end) = (self.began + ARRIVE + PULL, self.began + ARRIVE + PULL + STAY);
        let (mut received, mut complete) = (0, false);
        loop {
            let message = tokio::select! {
                message = incoming.message() => message?.context("the scheduler ended the session")?,
                () = sleep_until(pulled), if !complete => {
                    complete = true;
                    for swarm in &swarms {
                        outgoing.send(self.complete(swarm)?).await?;
                    }
                    continue;
                }
                () = sleep_until(end) => return Ok(received),
            };
            received += 1;
            if let TrackerMessage::Lease(lease) = TrackerMessage::try_from(message)?
                && !complete
            {
                tokio::spawn(answer(self.key.clone(), self.info.node, lease, outgoing.clone()));
            }
        }
    }

    fn complete(&self, swarm: &SwarmId) -> Result<NodeMessage> {
        let attestation = Attestation { swarm: swarm.clone(), root: [1; 32], signer: self.info.node };
        Ok(NodeMessage::Complete(attestation.sign(&self.key)?))
    }
}

fn joins(swarm: SwarmId) -> Membership {
    let chunks = swarm.layout().map_or(0, |layout| layout.count());
    Membership {
        swarm,
        held: Held::Some(ChunkSet::empty(chunks)),
        wants: true,
        may_lease: true,
        shareable: false,
    }
}

/// Reports the chunks of a lease one after the other, as if they had been read.
async fn answer(
    key: Keypair,
    signer: NodeId,
    lease: Lease,
    outgoing: mpsc::Sender<NodeMessage>,
) -> Result<()> {
    let Lease { swarm, token, chunks, .. } = lease;
    for index in chunks.map(ChunkIndex) {
        sleep(READ).await;
        let entry = Entry { swarm: swarm.clone(), index, value: ChunkValue([2; 32]), token, signer };
        let entries = vec![entry.sign(&key)?];
        if outgoing.send(NodeMessage::Progress { swarm: swarm.clone(), token, entries }).await.is_err() {
            bail!("the session ended");
        }
    }
    Ok(())
}
