//! A cached layer through the mirror beside nginx, which sends the same file with sendfile and checks nothing.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use shoal_proto::Algorithm;
use shoal_store::ContentHasher;
use shoal_tests::{Process, free_address};
use tokio::process::Command;

use crate::Bench;
use crate::client::{BUFFER, Client};
use crate::cluster::{Cluster, layer_path};
use crate::memory::mib;
use crate::origin::Origin;
use crate::report::{Aim, progress};
use crate::sample::Sample;

/// Runs of each; the median counts.
const RUNS: usize = 5;

pub(crate) async fn measure(bench: &mut Bench) -> Result<()> {
    bench.report.section("A second pull beside nginx");
    let Some(nginx) = find_nginx() else {
        progress("  nginx is not installed: skipped");
        return Ok(());
    };
    let sample = Sample::make(bench.folder(), bench.size, 4)?;
    let origin = Origin::start(sample.clone()).await?;
    let mut cluster = Cluster::new(bench.folder())?;
    let node = cluster.daemon(Some(origin.address), "").await?;
    node.pull(&sample).await?;
    let server = start_nginx(nginx, bench.folder()).await?;

    let name = sample.layer.file.file_name().context("the layer has a file")?.to_string_lossy();
    let (ours, theirs) = (layer_path(&sample), format!("/{name}"));
    for (client, hashes) in [("reads only", false), ("checks SHA-256", true)] {
        let (mut mirror, mut file_server) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            mirror.push(rate(node.address, &ours, hashes).await?);
            file_server.push(rate(server.address, &theirs, hashes).await?);
        }
        let (mirror, file_server) = (median(&mut mirror), median(&mut file_server));
        let report = &mut bench.report;
        report.add(format!("mirror, client that {client}"), mirror, "MiB/s");
        report.add(format!("nginx, client that {client}"), file_server, "MiB/s");
        let what = format!("mirror / nginx, client that {client}");
        report.add_aimed(what, mirror / file_server, "x", Aim::AtLeast(0.8));
    }
    Ok(())
}

/// MiB per second of one GET.
async fn rate(address: SocketAddr, path: &str, hashes: bool) -> Result<f64> {
    let path = path.to_owned();
    let read = move || {
        let mut client = Client::connect(address, BUFFER)?;
        let mut hasher = ContentHasher::new(Algorithm::Sha256);
        let started = Instant::now();
        let length = client.get(&path, |piece| {
            if hashes {
                hasher.update(piece);
            }
        })?;
        std::hint::black_box(hasher.finish());
        Ok(mib(length) / started.elapsed().as_secs_f64())
    };
    tokio::task::spawn_blocking(read).await?
}

pub(crate) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

struct Nginx {
    address: SocketAddr,
    // Held for its drop.
    _process: Process,
}

fn find_nginx() -> Option<&'static str> {
    ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"]
        .into_iter()
        .find(|path| Path::new(path).is_file())
}

async fn start_nginx(program: &str, folder: &Path) -> Result<Nginx> {
    let address = free_address();
    let at = folder.display();
    // A single process, so that killing it leaves nothing behind; it is not the bottleneck.
    let config = format!(
        "daemon off;\nmaster_process off;\npid {at}/nginx.pid;\nerror_log {at}/nginx.error;\n\
         events {{ worker_connections 64; }}\n\
         http {{\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  keepalive_timeout 60;\n\
         client_body_temp_path {at}/nginx-body;\n  proxy_temp_path {at}/nginx-proxy;\n\
         fastcgi_temp_path {at}/nginx-fastcgi;\n  uwsgi_temp_path {at}/nginx-uwsgi;\n\
         scgi_temp_path {at}/nginx-scgi;\n\
         server {{ listen {address}; root {at}; default_type application/octet-stream; }}\n}}\n"
    );
    let path = folder.join("nginx.conf");
    std::fs::write(&path, config)?;
    let mut command = Command::new(program);
    command.arg("-p").arg(folder).arg("-c").arg(&path).arg("-e").arg(folder.join("nginx.error"));
    let mut process = Process::spawn("nginx", command, &folder.join("nginx.log"));
    process.accepts(address).await;
    Ok(Nginx { address, _process: process })
}
