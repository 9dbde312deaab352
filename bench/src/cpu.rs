//! CPU seconds per GiB of what a daemon does, beside the sum of what it cannot avoid.

use anyhow::{Result, ensure};

use crate::client::{BUFFER, Client};
use crate::cluster::{Cluster, Shoal, layer_path};
use crate::floors::Floors;
use crate::origin::Origin;
use crate::report::Aim;
use crate::sample::Sample;
use crate::{Bench, floors, gib};

/// A cached layer is read so often, since one read takes too few ticks of the CPU clock.
const READS: u32 = 4;

pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    let (folder, size) = (bench.folder().to_owned(), bench.size);
    let floors = floors::measure(&mut bench.report, &folder, size).await?;

    bench.report.section("CPU seconds per GiB of each daemon");
    let sample = Sample::make(bench.folder(), bench.size, 3)?;
    let origin = Origin::start(sample.clone()).await?;
    let mut cluster = Cluster::new(bench.folder())?;
    let _scheduler = cluster.scheduler().await?;
    let first = cluster.daemon(Some(origin.address), "").await?;
    let second = cluster.daemon(Some(origin.address), "").await?;

    let (before, started) = (first.cpu_seconds()?, std::time::Instant::now());
    first.fetch(&sample).await?;
    let seconds = started.elapsed().as_secs_f64();
    let origin_to_disk = (first.cpu_seconds()? - before) / gib(size);
    let rate = 1024.0 * gib(size) / seconds;

    let before = (first.cpu_seconds()?, second.cpu_seconds()?);
    let started = std::time::Instant::now();
    second.fetch(&sample).await?;
    let peer_rate = 1024.0 * gib(size) / started.elapsed().as_secs_f64();
    let disk_to_peer = (first.cpu_seconds()? - before.0) / gib(size);
    let peer_to_disk = (second.cpu_seconds()? - before.1) / gib(size);
    let from_peers = second.from_peers().await?;
    ensure!(from_peers >= size, "only {from_peers} bytes came from the peer");

    let disk_to_client = to_client(&first, &sample).await?;

    let report = &mut bench.report;
    report.add("origin to disk", origin_to_disk, "CPU-s/GiB");
    report.add("peer to disk", peer_to_disk, "CPU-s/GiB");
    report.add("disk to peer", disk_to_peer, "CPU-s/GiB");
    report.add("disk to client", disk_to_client, "CPU-s/GiB");
    report.add("origin to disk, rate", rate, "MiB/s");
    report.add("peer to disk, rate", peer_rate, "MiB/s");
    let Floors { blake3, sha256, write, tcp_send, quic_send, quic_receive } = floors;
    report.section("CPU as a multiple of what cannot be avoided");
    let aim = Aim::Below(1.3);
    let mut ratio = |what: &str, value: f64, floor: f64| report.add_aimed(what, value / floor, "x", aim);
    ratio("disk to client / (TCP send + BLAKE3)", disk_to_client, tcp_send + blake3);
    ratio("disk to peer / (bare transport + BLAKE3)", disk_to_peer, quic_send + blake3);
    ratio(
        "peer to disk / (bare transport + BLAKE3 + SHA-256 + write)",
        peer_to_disk,
        quic_receive + blake3 + sha256 + write,
    );
    Ok(())
}

async fn to_client(node: &Shoal, sample: &Sample) -> Result<f64> {
    let (address, path) = (node.address, layer_path(sample));
    let before = node.cpu_seconds()?;
    let read = move || {
        let mut client = Client::connect(address, BUFFER)?;
        (0..READS).try_for_each(|_| client.get(&path, |_| ()).map(drop))
    };
    tokio::task::spawn_blocking(read).await??;
    Ok((node.cpu_seconds()? - before) / gib(sample.layer.size) / f64::from(READS))
}
