//! CPU seconds per GiB of what a daemon does, beside the sum of what it cannot avoid.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::client::{BUFFER, Client};
use crate::cluster::{Cluster, Shoal, layer_path};
use crate::costs::Costs;
use crate::floors::{BLAKE3, QUIC_RECEIVE, QUIC_SEND, READ, SHA256, TCP_RECEIVE, TCP_SEND, WRITE};
use crate::memory::mib;
use crate::origin::Origin;
use crate::report::{Aim, progress};
use crate::sample::Sample;
use crate::{Bench, floors, gib};

/// Everything is measured so often, floors and daemons in turn.
const ROUNDS: u64 = 5;
/// A cached layer is read so often, since one read takes too few ticks of the CPU clock.
const READS: u32 = 4;

const ORIGIN_TO_DISK: &str = "origin to disk";
const PEER_TO_DISK: &str = "peer to disk";
const DISK_TO_PEER: &str = "disk to peer";
const DISK_TO_CLIENT: &str = "disk to client";

pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    let (mut floor, mut steps, mut fastest) = (Costs::default(), Costs::default(), Rates::default());
    progress("  emptying the page cache, which needs root, and warming memory");
    let _warm = tokio::task::block_in_place(shoal_bench::WarmMemory::provide)?;
    for round in 0..ROUNDS {
        progress(&format!("CPU, round {} of {ROUNDS}", round + 1));
        let folder = tempfile::tempdir_in(bench.folder())?;
        let sample = Sample::make(folder.path(), bench.size, 100 + round)?;
        floors::measure(&mut floor, folder.path(), bench.size).await?;
        daemons(&mut steps, &mut fastest, folder.path(), sample).await?;
    }
    let report = &mut bench.report;
    report.section("What cannot be avoided, one thread");
    floor.tell(report);
    report.section("CPU of each daemon");
    steps.tell(report);
    report.add("origin to disk, rate", fastest.origin, "MiB/s");
    report.add("peer to disk, rate", fastest.peer, "MiB/s");
    report.section("CPU of each daemon as a multiple of what cannot be avoided");
    report.add(
        "origin to disk / (TCP receive + BLAKE3 + SHA-256 + write)",
        steps.sum(&[ORIGIN_TO_DISK]) / floor.sum(&[TCP_RECEIVE, BLAKE3, SHA256, WRITE]),
        "x",
    );
    let mut ratio = |what: &str, step: &str, parts: &[&str]| {
        report.add_aimed(what, steps.sum(&[step]) / floor.sum(parts), "x", Aim::Below(1.3));
    };
    let received = [QUIC_RECEIVE, BLAKE3, SHA256, WRITE];
    ratio("peer to disk / (bare transport + BLAKE3 + SHA-256 + write)", PEER_TO_DISK, &received);
    ratio("disk to peer / (bare transport + BLAKE3)", DISK_TO_PEER, &[QUIC_SEND, BLAKE3]);
    ratio("disk to client / (TCP send + BLAKE3)", DISK_TO_CLIENT, &[TCP_SEND, BLAKE3]);
    report.add(
        "disk to client / (TCP send + BLAKE3 + read)",
        steps.sum(&[DISK_TO_CLIENT]) / floor.sum(&[TCP_SEND, BLAKE3, READ]),
        "x",
    );
    Ok(())
}

/// The best of all rounds, in MiB per second.
#[derive(Default)]
struct Rates {
    origin: f64,
    peer: f64,
}

async fn daemons(costs: &mut Costs, rates: &mut Rates, folder: &Path, sample: Sample) -> Result<()> {
    let size = sample.layer.size;
    let origin = Origin::start(sample.clone()).await?;
    let mut cluster = Cluster::new(folder)?;
    let _scheduler = cluster.scheduler().await?;
    let first = cluster.daemon(Some(origin.address), "").await?;
    let second = cluster.daemon(Some(origin.address), "").await?;

    let (before, started) = (first.cpu_seconds()?, Instant::now());
    first.fetch(&sample).await?;
    rates.origin = rates.origin.max(mib(size) / started.elapsed().as_secs_f64());
    costs.record(ORIGIN_TO_DISK, (first.cpu_seconds()? - before) / gib(size));

    let (before, started) = ((first.cpu_seconds()?, second.cpu_seconds()?), Instant::now());
    second.fetch(&sample).await?;
    rates.peer = rates.peer.max(mib(size) / started.elapsed().as_secs_f64());
    costs.record(PEER_TO_DISK, (second.cpu_seconds()? - before.1) / gib(size));
    costs.record(DISK_TO_PEER, (first.cpu_seconds()? - before.0) / gib(size));
    let from_peers = second.bytes_from_peers().await?;
    ensure!(from_peers >= size, "only {from_peers} bytes came from the peer");

    costs.record(DISK_TO_CLIENT, to_client(&first, &sample).await?);
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
