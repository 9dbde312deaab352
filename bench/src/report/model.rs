//! The data of a report. Its JSON is what programs read: fields are added, never renamed.

use serde::{Deserialize, Serialize};

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    pub kind: Kind,
    /// What was asked, as on the command line.
    pub command: String,
    /// All that was asked for and moves the figures: name and value with its unit. Reports are compared only where these
    /// are the same.
    pub settings: Vec<(String, String)>,
    /// What else is worth reading beside the figures, and may differ between runs of the same thing.
    #[serde(default)]
    pub facts: Vec<(String, String)>,
    /// What a reader must know to trust the figures, such as processors that were too busy.
    pub notes: Vec<String>,
    /// What must never happen, and did: such a run has failed.
    #[serde(default)]
    pub broken: Vec<String>,
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
    /// Nodes that were to get the image.
    pub nodes: usize,
    /// Those that were given up without it.
    #[serde(default)]
    pub unfinished: usize,
    /// What the links allow at best.
    pub bound_s: f64,
    /// The last node's time; where nodes are unfinished, how long they were waited for. So are the next two.
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
    /// How busy the processors were from when the first node was told to pull until the last one had all, 0 to 1.
    pub busy: Option<f64>,
    /// In the busiest second of that time.
    #[serde(default)]
    pub busy_most: Option<f64>,
    /// The share of that time in which they were busier than a ratio allows, 0 to 1.
    #[serde(default)]
    pub saturated: Option<f64>,
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

impl Report {
    /// Whether it is a report of what should be: all nodes finished, and nothing was broken.
    pub fn is_sound(&self) -> bool {
        self.broken.is_empty() && self.modes.iter().all(|mode| mode.unfinished == 0)
    }
}

impl Mode {
    /// The part that follows from the times of nodes that finished, in any order, and how many did not until they were
    /// given up.
    pub(crate) fn timed(bound_s: f64, mut finish_s: Vec<f64>, unfinished: usize, given_up_s: f64) -> Self {
        finish_s.sort_by(f64::total_cmp);
        let nodes = finish_s.len() + unfinished;
        // The smallest time that so many percent of the nodes needed at most.
        let within = |percent: usize| {
            let rank = (nodes * percent).div_ceil(100);
            finish_s.get(rank.saturating_sub(1)).copied().unwrap_or(given_up_s)
        };
        let (last_s, p50_s, p99_s) = (within(100), within(50), within(99));
        let ratio = (unfinished == 0 && bound_s > 0.0).then(|| last_s / bound_s);
        Self { nodes, unfinished, bound_s, last_s, p50_s, p99_s, ratio, finish_s, ..Self::default() }
    }
}

/// Bytes that all nodes together had received by a moment, by source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub at_s: f64,
    pub origin_bytes: u64,
    pub peer_bytes: u64,
    pub cross_zone_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_of_nodes() {
        let mode = Mode::timed(8.0, (1..=16).rev().map(f64::from).collect(), 0, 60.0);
        assert_eq!((mode.p50_s, mode.p99_s, mode.last_s, mode.ratio), (8.0, 16.0, 16.0, Some(2.0)));
        let mode = Mode::timed(0.0, vec![3.0], 0, 60.0);
        assert_eq!((mode.p50_s, mode.ratio), (3.0, None), "nothing had to move");
    }

    #[test]
    fn nodes_that_never_finish_are_in_every_figure_and_in_json() {
        let mode = Mode::timed(8.0, vec![9.0, 8.0], 1, 60.0);
        assert_eq!((mode.nodes, mode.p50_s, mode.p99_s, mode.last_s), (3, 9.0, 60.0, 60.0));
        assert_eq!(mode.ratio, None);
        let nobody = Mode::timed(8.0, Vec::new(), 3, 60.0);
        let report = Report {
            kind: Kind::Sim,
            command: String::new(),
            settings: Vec::new(),
            facts: Vec::new(),
            notes: Vec::new(),
            broken: Vec::new(),
            modes: vec![nobody],
        };
        assert!(!report.is_sound());
        let json = serde_json::to_string(&report).unwrap();
        assert!(json.contains("\"unfinished\":3") && json.contains("\"last_s\":60.0"), "{json}");
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap().modes[0].p50_s, 60.0);
        assert!(report.to_string().contains("> 60.0 s"), "{report}");
    }
}
