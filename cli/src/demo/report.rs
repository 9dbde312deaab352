//! What the demo found.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Serialize;
use shoal_daemon::NodeStatus;

use super::origin::OriginLog;
use crate::pull::PullReport;

/// One node's pull.
#[derive(Debug, Serialize)]
pub(super) struct NodeReport {
    name: String,
    seconds: f64,
    origin_bytes: u64,
    peer_bytes: u64,
    /// Given to the client from disk without a transfer.
    disk_bytes: u64,
    image_bytes: u64,
    /// Why the pull failed, if it did.
    error: Option<String>,
}

/// All nodes' pulls.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    image: String,
    nodes: Vec<NodeReport>,
    seconds: f64,
    image_bytes: u64,
    origin_bytes: u64,
    /// Origin bytes over image bytes: 1.0 is one copy for the whole cluster.
    ratio: f64,
    origin: Option<OriginLog>,
    /// Whether every node got every byte, each blob with its digest.
    pub all_match: bool,
}

impl NodeReport {
    pub(super) fn new(name: String, pulled: anyhow::Result<PullReport>, status: &NodeStatus) -> Self {
        let transfer = &status.transfer;
        let (seconds, image_bytes, error) = match pulled {
            Ok(report) => (report.elapsed.as_secs_f64(), report.bytes, None),
            Err(error) => (0.0, 0, Some(format!("{error:#}"))),
        };
        Self {
            name,
            seconds,
            origin_bytes: transfer.origin_received_bytes,
            peer_bytes: transfer.peer_received_bytes,
            disk_bytes: transfer.client_local_bytes,
            image_bytes,
            error,
        }
    }
}

impl Report {
    pub(super) fn new(
        image: String,
        nodes: Vec<NodeReport>,
        elapsed: Duration,
        origin: Option<OriginLog>,
    ) -> Self {
        let all_match = nodes.iter().all(|node| node.error.is_none());
        let image_bytes = match &origin {
            Some(origin) => origin.image_bytes,
            None => nodes.iter().map(|node| node.image_bytes).max().unwrap_or(0),
        };
        let received = nodes.iter().map(|node| node.origin_bytes).sum();
        let origin_bytes = origin.map_or(received, |origin| origin.sent_bytes);
        let ratio = if image_bytes == 0 { 0.0 } else { origin_bytes as f64 / image_bytes as f64 };
        let seconds = elapsed.as_secs_f64();
        Self { image, nodes, seconds, image_bytes, origin_bytes, ratio, origin, all_match }
    }
}

fn size(bytes: u64) -> String {
    ByteSize::b(bytes).to_string()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n{:<10} {:>8} {:>12} {:>12} {:>12}  DIGESTS",
            "NODE", "TIME", "ORIGIN", "PEERS", "DISK"
        )?;
        for node in &self.nodes {
            write!(
                f,
                "{:<10} {:>6.1} s {:>12} {:>12} {:>12}",
                node.name,
                node.seconds,
                size(node.origin_bytes),
                size(node.peer_bytes),
                size(node.disk_bytes)
            )?;
            match &node.error {
                None => writeln!(f, "  match")?,
                Some(_) => writeln!(f, "  FAILED")?,
            }
        }
        let errors: BTreeSet<&String> = self.nodes.iter().filter_map(|node| node.error.as_ref()).collect();
        for error in errors {
            writeln!(f, "FAILED: {error}")?;
        }
        writeln!(
            f,
            "\n{} node{} got {} each, the last after {:.1} s; the origin sent {}: {:.3} x the image.",
            self.nodes.len(),
            if self.nodes.len() == 1 { "" } else { "s" },
            size(self.image_bytes),
            self.seconds,
            size(self.origin_bytes),
            self.ratio
        )?;
        if let Some(origin) = &self.origin {
            writeln!(
                f,
                "GETs by the origin's own count: {} of manifests, {} of blobs, ranged.",
                origin.manifest_gets, origin.blob_gets
            )?;
        }
        let verdict = if self.all_match { "All digests match." } else { "NOT all digests match." };
        writeln!(f, "{verdict}")
    }
}
