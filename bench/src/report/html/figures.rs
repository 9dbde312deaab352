//! All figures of all modes, as a table.

use std::fmt::Write as _;

use super::text::{colour, escape, seconds, size};
use crate::report::model::Mode;

const NONE: &str = "<span class=none>–</span>";

/// A column: heading, and what stands in a mode's row.
type Column = (&'static str, fn(&Mode) -> Option<String>);

const COLUMNS: [Column; 17] = [
    ("nodes", |mode| Some(mode.nodes.to_string())),
    ("never finished", |mode| (mode.unfinished > 0).then(|| mode.unfinished.to_string())),
    ("last node", |mode| Some(seconds(mode.last_s))),
    ("p50", |mode| Some(seconds(mode.p50_s))),
    ("p99", |mode| Some(seconds(mode.p99_s))),
    ("bound", |mode| (mode.bound_s > 0.0).then(|| seconds(mode.bound_s))),
    ("ratio", |mode| mode.ratio.map(|ratio| format!("{ratio:.2} ×"))),
    ("first byte, last node", |mode| mode.first_byte_last_s.map(seconds)),
    ("origin sent", |mode| Some(size(mode.origin_bytes))),
    ("origin GETs", |mode| Some(mode.origin_gets.to_string())),
    ("between zones", |mode| (mode.cross_zone_bytes > 0).then(|| size(mode.cross_zone_bytes))),
    ("CPU per GiB", |mode| mode.cpu_s_per_gib.map(seconds)),
    ("processors busy", |mode| mode.busy.map(percent)),
    ("in the busiest second", |mode| mode.busy_most.map(percent)),
    ("part of the time above 85 %", |mode| mode.saturated.map(percent)),
    ("a daemon's memory", |mode| mode.rss_anon_peak.map(size)),
    ("the scheduler's", |mode| mode.scheduler_rss_anon_peak.map(size)),
];

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Modes are columns: there are fewer of them than figures, and they are what one compares.
pub(super) fn table(modes: &[Mode]) -> String {
    let mut html = "<div class=scroll><table><thead><tr><th></th>".to_owned();
    for (place, mode) in modes.iter().enumerate() {
        let _ = write!(html, "<th class={}>{}</th>", colour(&mode.name, place), escape(&mode.name));
    }
    html += "</tr></thead><tbody>";
    for (heading, cell) in COLUMNS {
        let cells: Vec<Option<String>> = modes.iter().map(cell).collect();
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(html, "<tr><th>{heading}</th>");
        for cell in cells {
            let _ = write!(html, "<td>{}</td>", cell.as_deref().unwrap_or(NONE));
        }
        html += "</tr>";
    }
    html + "</tbody></table></div>"
}
