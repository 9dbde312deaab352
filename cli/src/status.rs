//! `shoal status`: what a node holds, whom it talks to, and where its bytes came from.

use std::process::ExitCode;

use anyhow::Context;
use bytesize::ByteSize;
use clap::Args;
use shoal_daemon::NodeStatus;

use crate::pull::http_client;

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
        println!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    let status: NodeStatus =
        serde_json::from_str(&text).context("the node's answer is not a status; is it another version?")?;
    print(&status);
    Ok(ExitCode::SUCCESS)
}

/// The status of the node with this admin address, as JSON.
pub(crate) async fn fetch(admin: &str) -> anyhow::Result<String> {
    let answer = http_client()?.get(format!("http://{admin}/status")).send().await;
    let answer = answer
        .and_then(reqwest::Response::error_for_status)
        .with_context(|| format!("no answer from {admin}; is `shoal daemon` running there?"))?;
    Ok(answer.text().await?)
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).to_string()
}

fn print(status: &NodeStatus) {
    let store = &status.store;
    let capacity = store.capacity_bytes.map_or("no bound".to_owned(), size);
    println!("node       {} (shoal {})", status.node, status.version);
    println!("scheduler  {}", if status.scheduler { "connected" } else { "none" });
    println!(
        "store      {} of {capacity}; {} free on the disk",
        size(store.used_bytes),
        size(store.free_bytes)
    );
    let transfer = &status.transfer;
    println!(
        "received   {} from origins, {} from peers, {} chunks rejected",
        size(transfer.origin_received_bytes),
        size(transfer.peer_received_bytes),
        transfer.chunks_rejected
    );
    println!(
        "served     {} from disk, {} by way of the swarm, {} by way of an origin",
        size(transfer.client_local_bytes),
        size(transfer.client_swarm_bytes),
        size(transfer.client_origin_bytes)
    );
    if !status.peers.is_empty() {
        println!("\n{:<54} {:<22} {:>10} {:>10} {:>8}", "PEER", "ADDRESS", "SENT", "RECEIVED", "RTT");
    }
    for peer in &status.peers {
        println!(
            "{:<54} {:<22} {:>10} {:>10} {:>6}us",
            peer.node,
            peer.address,
            size(peer.sent_bytes),
            size(peer.received_bytes),
            peer.rtt_us
        );
    }
    if !status.blobs.is_empty() {
        println!("\n{:<73} {:>10} {:>13}  STATE", "BLOB", "SIZE", "CHUNKS");
    }
    for blob in &status.blobs {
        let state = match (blob.complete, blob.held_chunks == blob.total_chunks) {
            (true, true) => "complete",
            (true, false) => "repairing",
            (false, _) => "partial",
        };
        let pinned = if blob.pinned { ", pinned" } else { "" };
        let chunks = format!("{}/{}", blob.held_chunks, blob.total_chunks);
        println!("{:<73} {:>10} {chunks:>13}  {state}{pinned}", blob.digest, size(blob.size));
    }
}
