//! `shoal status`: what a node holds, whom it talks to, and where its bytes came from.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::Args;
use shoal_daemon::{FilesystemStatus, NodeStatus};

use crate::output::line;
use crate::pull::{host_and_port, http_client};

/// Addresses of unreachable nodes that are shown at most; the rest is in the JSON.
const SHOWN: usize = 8;

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// The node's admin address
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5105")]
    admin: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: StatusArguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let text = runtime.block_on(fetch(&arguments.admin))?;
    if arguments.json {
        line(text.trim_end())?;
        return Ok(ExitCode::SUCCESS);
    }
    let status: NodeStatus = serde_json::from_str(&text).with_context(|| {
        format!(
            "{} is not the admin address of a daemon of this version (a scheduler's, perhaps); a daemon's is by \
             default 127.0.0.1:5105",
            arguments.admin
        )
    })?;
    line(shown(&status).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// The status of the node with this admin address, as JSON.
pub(crate) async fn fetch(admin: &str) -> anyhow::Result<String> {
    let admin = host_and_port(admin)?;
    let answer = http_client()?.get(format!("http://{admin}/status")).send().await;
    let answer =
        answer.with_context(|| format!("no answer from {admin}; is `shoal daemon` running there?"))?;
    // Every answer of a mirror says which API it speaks.
    ensure!(
        !answer.headers().contains_key("docker-distribution-api-version"),
        "{admin} is a node's mirror: give the address of its [admin], by default 127.0.0.1:5105"
    );
    let status = answer.status();
    ensure!(status.is_success(), "{admin} answers {status}: give the address of a node's [admin]");
    Ok(answer.text().await?)
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).to_string()
}

/// Lines of a text.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.push_str(&line.to_string());
        self.0.push('\n');
    }
}

fn scheduler(status: &NodeStatus) -> String {
    let since = Duration::from_secs(status.scheduler_since_s);
    let since = humantime::format_duration(since);
    match (status.scheduler, status.scheduler_urls.is_empty()) {
        (true, _) => format!("connected for {since}"),
        (false, true) => "none configured: this node is a cluster of its own".to_owned(),
        (false, false) => format!("not reached for {since}: {}", status.scheduler_urls.join(", ")),
    }
}

fn links(status: &NodeStatus) -> String {
    let (up, down) = (status.peers.len(), status.unreachable.len());
    if down == 0 {
        return if up == 0 { "none".to_owned() } else { up.to_string() };
    }
    let addresses = status.unreachable.iter().flatten().take(SHOWN).map(ToString::to_string);
    let addresses: Vec<_> = addresses.collect();
    format!("{up} of {} known nodes; unreachable: {}", up + down, addresses.join(", "))
}

fn show_filesystem(text: &mut Lines, filesystem: &FilesystemStatus) {
    let FilesystemStatus { images, more_images, spans, .. } = filesystem;
    let bound = filesystem.disk_limit_bytes.map_or("no bound".to_owned(), size);
    text.line(format_args!(
        "shoal fs   {} images; {} of {bound} on the disk; {} read, {} fetched",
        images.len() as u64 + more_images,
        size(filesystem.disk_used_bytes),
        size(filesystem.read_bytes),
        size(filesystem.fetched_bytes)
    ));
    let waits: u64 = filesystem.waits.iter().map(|wait| wait.reads).sum();
    text.line(format_args!(
        "spans      {} from peers, {} from registries, {} from the store, {} from disk, {} wrong, {} failed; {waits} \
         reads waited {:.1} s",
        spans.peer, spans.registry, spans.store, spans.disk, spans.wrong, spans.failed, filesystem.waited_s
    ));
    if !images.is_empty() {
        text.line(format_args!(
            "\n{:>10} {:>10} {:>10} {:>7}  IMAGE",
            "UNPACKED", "LOCAL", "IN STORE", "WHOLE"
        ));
    }
    for image in images {
        let whole = format!("{}/{}", image.whole_layers, image.layers);
        text.line(format_args!(
            "{:>10} {:>10} {:>10} {whole:>7}  {}",
            size(image.tar_bytes),
            size(image.local_bytes),
            size(image.store_bytes),
            image.name
        ));
    }
}

fn shown(status: &NodeStatus) -> String {
    let mut text = Lines::default();
    let store = &status.store;
    let capacity = store.capacity_bytes.map_or("no bound".to_owned(), size);
    text.line(format_args!("node       {} (shoal {})", status.node, status.version));
    text.line(format_args!("scheduler  {}", scheduler(status)));
    text.line(format_args!("links      {}", links(status)));
    text.line(format_args!(
        "store      {} of {capacity}; {} free on the disk",
        size(store.used_bytes),
        size(store.free_bytes)
    ));
    let transfer = &status.transfer;
    text.line(format_args!(
        "received   {} from origins, {} from peers, {} chunks rejected",
        size(transfer.origin_received_bytes),
        size(transfer.peer_received_bytes),
        transfer.chunks_rejected
    ));
    text.line(format_args!(
        "served     {} from disk, {} by way of the swarm, {} by way of an origin",
        size(transfer.client_local_bytes),
        size(transfer.client_swarm_bytes),
        size(transfer.client_origin_bytes)
    ));
    if let Some(filesystem) = &status.filesystem {
        show_filesystem(&mut text, filesystem);
    }
    if !status.peers.is_empty() {
        text.line(format_args!(
            "\n{:<54} {:<22} {:>10} {:>10} {:>8}",
            "PEER", "ADDRESS", "SENT", "RECEIVED", "RTT"
        ));
    }
    for peer in &status.peers {
        text.line(format_args!(
            "{:<54} {:<22} {:>10} {:>10} {:>6}us",
            peer.node,
            peer.address,
            size(peer.sent_bytes),
            size(peer.received_bytes),
            peer.rtt_us
        ));
    }
    if !status.blobs.is_empty() {
        text.line(format_args!("\n{:<73} {:>10} {:>13}  STATE", "BLOB", "SIZE", "CHUNKS"));
    }
    for blob in &status.blobs {
        let state = match (blob.complete, blob.held_chunks == blob.total_chunks) {
            (true, true) => "complete",
            (true, false) => "repairing",
            (false, _) => "partial",
        };
        let pinned = if blob.pinned { ", pinned" } else { "" };
        let chunks = format!("{}/{}", blob.held_chunks, blob.total_chunks);
        text.line(format_args!("{:<73} {:>10} {chunks:>13}  {state}{pinned}", blob.digest, size(blob.size)));
    }
    text.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_cannot_be_called_are_named() {
        let text = r#"{"node":"n","version":"1","scheduler":false,"scheduler_urls":["https://s:5101"],
            "scheduler_since_s":90,"store":{"used_bytes":0,"capacity_bytes":null,"free_bytes":0},"blobs":[],
            "peers":[],"unreachable":[["192.0.2.7:5103"]],"transfer":{"origin_received_bytes":0,
            "peer_received_bytes":0,"chunks_rejected":0,"client_local_bytes":0,"client_swarm_bytes":0,
            "client_origin_bytes":0}}"#;
        let mut status: NodeStatus = serde_json::from_str(text).unwrap();
        assert_eq!(links(&status), "0 of 1 known nodes; unreachable: 192.0.2.7:5103");
        assert_eq!(scheduler(&status), "not reached for 1m 30s: https://s:5101");
        status.unreachable.clear();
        status.scheduler_urls.clear();
        assert_eq!(links(&status), "none");
        assert!(scheduler(&status).starts_with("none configured"));
        assert!(shown(&status).contains("links      none\n"));
    }
}
