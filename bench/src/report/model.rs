//! The data of a report. Its JSON is what programs read: fields are added, never renamed.

use serde::{Deserialize, Serialize};

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub kind: Kind,
    /// What was asked, as on the command line.
    pub command: String,
    /// Settings worth reading beside the figures: name and value with its unit.
    pub settings: Vec<(String, String)>,
    /// What a reader must know to trust the figures, such as processors that were too busy.
    pub notes: Vec<String>,
    pub modes: Vec<Mode>,
}

/// Which benchmark made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Cluster,
    Sim,
}

/// One way of getting the image onto all nodes. Times are seconds since the first node was told to pull, save for
/// those of nodes that were told later, whose time counts from then.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Mode {
    pub name: String,
    pub nodes: usize,
    /// What the links allow at best.
    pub bound_s: f64,
    /// The last node that finished.
    pub last_s: f64,
    pub p50_s: f64,
    pub p99_s: f64,
    /// `last_s / bound_s`; `None` where no ratio can be claimed, as a note then says.
    pub ratio: Option<f64>,
    /// Content bytes that the origin sent, by its own count.
    pub origin_bytes: u64,
    /// The whole image: manifest and all blobs.
    pub image_bytes: u64,
    /// What each pulling node lacked of it; less than the image in a rolling update. The bound is about these.
    #[serde(default)]
    pub new_bytes: u64,
    /// GETs of manifests and blobs that the origin answered.
    pub origin_gets: u64,
    pub cross_zone_bytes: u64,
    /// CPU-seconds of all Shoal processes for each GiB that nodes received; `None` where nothing was measured.
    pub cpu_s_per_gib: Option<f64>,
    /// How busy the processors were, 0 to 1.
    pub busy: Option<f64>,
    /// Most anonymous memory of one daemon, in bytes.
    pub rss_anon_peak: Option<u64>,
    /// The scheduler's.
    #[serde(default)]
    pub scheduler_rss_anon_peak: Option<u64>,
    /// When the last node had its first byte.
    pub first_byte_last_s: Option<f64>,
    /// Each node's time, ascending: the completion curve.
    pub finish_s: Vec<f64>,
    /// Where bytes came from, over time.
    pub traffic: Vec<Sample>,
}

/// Bytes that all nodes together had received by a moment, by source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub at_s: f64,
    pub origin_bytes: u64,
    pub peer_bytes: u64,
    pub cross_zone_bytes: u64,
}
