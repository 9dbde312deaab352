//! What changed since an earlier run.

use std::fmt;

use bytesize::ByteSize;

use super::model::{Mode, Report};

/// What stands where a run has no such setting or figure.
const NOTHING: &str = "nothing";

/// A figure of a mode; less is better for all of them.
struct Figure {
    name: &'static str,
    value: fn(&Mode) -> Option<f64>,
    show: fn(f64) -> String,
    /// Two runs of the same program differ by so much at most.
    noise: f64,
    /// And by so much, where the figure is small.
    least: f64,
}

const FIGURES: [Figure; 8] = [
    Figure {
        name: "unfinished nodes",
        value: |m| Some(m.unfinished as f64),
        show: |v| v.to_string(),
        noise: 0.0,
        least: 0.0,
    },
    Figure {
        name: "ratio to the bound",
        value: |m| m.ratio,
        show: |v| format!("{v:.2}"),
        noise: 0.05,
        least: 0.0,
    },
    Figure { name: "first byte", value: |m| m.first_byte_last_s, show: seconds, noise: 0.2, least: 0.3 },
    Figure {
        name: "origin bytes",
        value: |m| bytes(m.origin_bytes),
        show: size,
        noise: 0.01,
        least: 65536.0,
    },
    Figure {
        name: "origin GETs",
        value: |m| bytes(m.origin_gets),
        show: |v| v.to_string(),
        noise: 0.1,
        least: 2.0,
    },
    Figure {
        name: "bytes between zones",
        value: |m| bytes(m.cross_zone_bytes),
        show: size,
        noise: 0.05,
        least: 1e6,
    },
    Figure { name: "CPU per GiB", value: |m| m.cpu_s_per_gib, show: seconds, noise: 0.15, least: 0.2 },
    Figure {
        name: "memory of a daemon",
        value: |m| m.rss_anon_peak.and_then(bytes),
        show: size,
        noise: 0.2,
        least: 4e6,
    },
];

/// Compared only where neither run has a ratio, which says the same of a network that was measured anew.
const TIME: Figure =
    Figure { name: "last node", value: |m| Some(m.last_s), show: seconds, noise: 0.05, least: 0.3 };

#[allow(clippy::unnecessary_wraps, reason = "a figure may be missing, these never are")]
fn bytes(bytes: u64) -> Option<f64> {
    Some(bytes as f64)
}

fn seconds(value: f64) -> String {
    format!("{value:.2} s")
}

#[allow(clippy::cast_possible_truncation, reason = "bytes were whole before")]
fn size(value: f64) -> String {
    ByteSize::b(value as u64).to_string()
}

/// Which way a figure went, beyond noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Better,
    Worse,
    /// The runs are not of the same thing.
    Unlike,
}

/// A difference from an earlier run that is more than noise.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub direction: Direction,
    pub text: String,
}

impl Change {
    pub(super) fn is_worse(&self) -> bool {
        self.direction == Direction::Worse
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.direction {
            Direction::Better => "better",
            Direction::Worse => "WORSE",
            Direction::Unlike => "unlike",
        };
        write!(f, "{word:<7} {}", self.text)
    }
}

/// What differs, for modes that both have; of runs of different things only in what.
pub(super) fn compare(earlier: &Report, now: &Report) -> Vec<Change> {
    let mut changes: Vec<Change> = unlike(earlier, now).collect();
    if !changes.is_empty() {
        return changes;
    }
    for mode in &now.modes {
        match earlier.modes.iter().find(|other| other.name == mode.name) {
            Some(before) => {
                let time = [before, mode].iter().all(|mode| mode.ratio.is_none()).then_some(&TIME);
                changes.extend(FIGURES.iter().chain(time).filter_map(|figure| figure.change(before, mode)));
            }
            None => changes.push(Change {
                direction: Direction::Unlike,
                text: format!("{}: the earlier run did not measure it", mode.name),
            }),
        }
    }
    changes
}

/// Settings that differ, or that one run has and the other has not.
fn unlike<'a>(earlier: &'a Report, now: &'a Report) -> impl Iterator<Item = Change> + 'a {
    fn find<'a>(report: &'a Report, name: &str) -> Option<&'a str> {
        report.settings.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
    let gone = earlier.settings.iter().filter(|(name, _)| find(now, name).is_none());
    now.settings.iter().chain(gone).filter_map(move |(name, _)| {
        let (before, after) = (find(earlier, name), find(now, name));
        let told = |value: Option<&'a str>| value.unwrap_or(NOTHING);
        (before != after).then(|| Change {
            direction: Direction::Unlike,
            text: format!("{name}: {} then, {} now", told(before), told(after)),
        })
    })
}

impl Figure {
    fn change(&self, before: &Mode, now: &Mode) -> Option<Change> {
        let (old, new) = match ((self.value)(before), (self.value)(now)) {
            (Some(old), Some(new)) => (old, new),
            (None, None) => return None,
            // Too busy processors, mostly: a note of that run tells why.
            (old, new) => {
                let told = |value: Option<f64>| value.map_or(NOTHING.to_owned(), self.show);
                let text = format!("{}: {} {} then, {} now", now.name, self.name, told(old), told(new));
                return Some(Change { direction: Direction::Unlike, text });
            }
        };
        if (new - old).abs() <= (old * self.noise).max(self.least) {
            return None;
        }
        let percent =
            if old > 0.0 { format!(" ({:+.0} %)", (new / old - 1.0) * 100.0) } else { String::new() };
        Some(Change {
            direction: if new < old { Direction::Better } else { Direction::Worse },
            text: format!("{}: {} {} → {}{percent}", now.name, self.name, (self.show)(old), (self.show)(new)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::Kind;
    use super::*;

    fn report(mode: Mode) -> Report {
        Report {
            kind: Kind::Cluster,
            command: String::new(),
            settings: vec![("nodes".to_owned(), "4".to_owned())],
            facts: Vec::new(),
            notes: Vec::new(),
            broken: Vec::new(),
            modes: vec![mode],
        }
    }

    fn mode(ratio: f64, origin_bytes: u64) -> Mode {
        Mode { name: "shoal".to_owned(), ratio: Some(ratio), origin_bytes, ..Mode::default() }
    }

    #[test]
    fn what_is_more_than_noise_is_told() {
        let earlier = report(mode(1.10, 10_000_000));
        assert!(compare(&earlier, &report(mode(1.12, 10_000_000))).is_empty());
        let changes = compare(&earlier, &report(mode(1.30, 9_000_000)));
        let directions: Vec<_> = changes.iter().map(|change| change.direction).collect();
        assert_eq!(directions, [Direction::Worse, Direction::Better], "{changes:?}");
    }

    #[test]
    fn runs_of_different_things_are_told_apart() {
        let plain = report(mode(1.1, 0));
        let settings = |settings: &[(&str, &str)]| Report {
            settings: settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            ..report(mode(9.9, 0))
        };
        for other in [&[("nodes", "5")][..], &[], &[("nodes", "4"), ("without", "leases")]] {
            let other = settings(other);
            for (one, two) in [(&plain, &other), (&other, &plain)] {
                let directions: Vec<_> = compare(one, two).iter().map(|change| change.direction).collect();
                assert_eq!(directions, [Direction::Unlike], "{one:?}, {two:?}");
            }
        }
    }

    #[test]
    fn what_was_found_tells_no_runs_apart() {
        let found = |value: &str| Report {
            facts: vec![("a node's link carries".into(), value.into())],
            ..report(mode(1.1, 0))
        };
        assert!(compare(&found("47.8 Mbit/s"), &found("47.6 Mbit/s")).is_empty());
    }

    #[test]
    fn a_ratio_that_only_one_run_has_is_told() {
        let (with, without) = (report(mode(1.1, 0)), report(Mode { ratio: None, ..mode(1.1, 0) }));
        for (before, now) in [(&with, &without), (&without, &with)] {
            let changes = compare(before, now);
            assert_eq!(changes.len(), 1, "{changes:?}");
            assert_eq!(changes[0].direction, Direction::Unlike);
            assert!(changes[0].text.contains("ratio to the bound"), "{changes:?}");
        }
    }

    #[test]
    fn nodes_that_do_not_finish_any_more_are_worse() {
        let unfinished = Mode { unfinished: 1, ratio: None, ..mode(1.1, 0) };
        assert!(compare(&report(mode(1.1, 0)), &report(unfinished)).iter().any(Change::is_worse));
    }
}
