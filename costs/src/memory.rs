//! Memory of a daemon: idle, while it pulls, and with a crowd of clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::Bench;
use crate::client::Client;
use crate::cluster::{Cluster, Shoal, layer_path};
use crate::origin::Origin;
use crate::report::Aim;
use crate::sample::Sample;
use crate::usage::{PeakMemory, anonymous_memory};

/// What a process does at its start is over by then.
const SETTLE: Duration = Duration::from_secs(1);
/// Clients of one node at once.
const CROWD: u64 = 1000;
/// What each of them reads.
const CROWD_LAYER: u64 = 16 << 20;
/// A slow client reads this much, then pauses: at most 640 KiB/s.
const SLOW_READ: usize = 64 << 10;
const SLOW_PAUSE: Duration = Duration::from_millis(100);
/// Each of the crowd is a thread; it does not need more stack.
const STACK: usize = 256 << 10;

pub(crate) fn mib(bytes: u64) -> f64 {
    // Exact up to 2^53 bytes.
    bytes as f64 / f64::from(1 << 20)
}

pub(crate) async fn pulls(bench: &mut Bench) -> Result<()> {
    bench.report.section("Memory of a daemon (RssAnon)");
    let sample = Sample::make(bench.folder(), bench.memory_size, 1)?;
    let origin = Origin::start(sample.clone()).await?;
    let mut cluster = Cluster::new(bench.folder())?;
    let _scheduler = cluster.scheduler().await?;
    let first = cluster.daemon(Some(origin.address), "").await?;
    let second = cluster.daemon(Some(origin.address), "").await?;
    tokio::time::sleep(SETTLE).await;
    let idle = anonymous_memory(first.pid)?;
    bench.report.add_aimed("idle", mib(idle), "MiB", Aim::Below(40.0));

    let size = bytesize::ByteSize::b(sample.layer.size);
    let peak = pulled(&first, &sample).await?;
    let what = format!("peak while {size} is pulled from the origin");
    bench.report.add_aimed(what, mib(peak), "MiB", Aim::Below(150.0));
    let serving = PeakMemory::watch(first.pid);
    let peak = pulled(&second, &sample).await?;
    let what = format!("peak while {size} is pulled from a peer");
    bench.report.add_aimed(what, mib(peak), "MiB", Aim::Below(150.0));
    let what = format!("peak of the peer that serves {size}");
    bench.report.add_aimed(what, mib(serving.peak()?), "MiB", Aim::Below(150.0));
    tokio::time::sleep(SETTLE).await;
    bench.report.add("after the pull from the origin", mib(anonymous_memory(first.pid)?), "MiB");
    bench.report.add("after the pull from a peer", mib(anonymous_memory(second.pid)?), "MiB");
    Ok(())
}

async fn pulled(node: &Shoal, sample: &Sample) -> Result<u64> {
    let watch = PeakMemory::watch(node.pid);
    node.pull(sample).await?;
    watch.peak()
}

/// Many clients read one cached layer at once; every second one is slow.
pub(crate) async fn crowd(bench: &mut Bench) -> Result<()> {
    bench.report.section("Memory of a daemon with a crowd of clients (RssAnon)");
    let sample = Sample::make(bench.folder(), CROWD_LAYER, 2)?;
    let origin = Origin::start(sample.clone()).await?;
    let mut cluster = Cluster::new(bench.folder())?;
    let node = cluster.daemon(Some(origin.address), "").await?;
    node.pull(&sample).await?;
    let content: Arc<[u8]> = std::fs::read(&sample.layer.file)?.into();
    let (path, address) = (layer_path(&sample), node.address);

    let watch = PeakMemory::watch(node.pid);
    let cpu = node.cpu_seconds()?;
    let started = std::time::Instant::now();
    let clients: Vec<_> = (0..CROWD)
        .map(|number| {
            let (content, path) = (content.clone(), path.clone());
            let read = move || read_exactly(address, &path, &content, number % 2 == 1);
            std::thread::Builder::new().stack_size(STACK).spawn(read).context("start a client")
        })
        .collect::<Result<_>>()?;
    let wait = move || {
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| anyhow!("a client panicked"))?)
    };
    tokio::task::spawn_blocking(wait).await??;
    let seconds = started.elapsed().as_secs_f64();
    let total = CROWD * CROWD_LAYER;
    let what = format!("peak with {CROWD} concurrent GETs of {}", bytesize::ByteSize::b(CROWD_LAYER));
    bench.report.add_aimed(what, mib(watch.peak()?), "MiB", Aim::Below(300.0));
    bench.report.add("throughput of all of them", mib(total) / seconds, "MiB/s");
    bench.report.add("CPU of the daemon", (node.cpu_seconds()? - cpu) / crate::gib(total), "CPU-s/GiB");
    Ok(())
}

/// Reads the layer and compares every byte.
fn read_exactly(address: SocketAddr, path: &str, content: &[u8], slow: bool) -> Result<()> {
    let (mut at, mut same) = (0, true);
    let buffer = SLOW_READ;
    let mut client = Client::connect(address, buffer)?;
    client.get(path, |piece| {
        same &= content.get(at..at + piece.len()) == Some(piece);
        at += piece.len();
        if slow {
            std::thread::sleep(SLOW_PAUSE.mul_f64(piece.len() as f64 / SLOW_READ as f64));
        }
    })?;
    ensure!(same && at == content.len(), "a client got wrong bytes");
    Ok(())
}
