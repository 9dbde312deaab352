//! What changed since an earlier run.

use std::fmt;

use bytesize::ByteSize;

use super::model::{Mode, Report};

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
        name: "ratio to the bound",
        value: |m| m.ratio,
        show: |v| format!("{v:.2}"),
        noise: 0.05,
        least: 0.0,
    },
    Figure { name: "last node", value: time, show: seconds, noise: 0.05, least: 0.3 },
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

/// Told only where no ratio is, which says the same of a network that was measured anew.
fn time(mode: &Mode) -> Option<f64> {
    mode.ratio.is_none().then_some(mode.last_s)
}

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
            Some(before) => changes.extend(FIGURES.iter().filter_map(|figure| figure.change(before, mode))),
            None => changes.push(Change {
                direction: Direction::Unlike,
                text: format!("{}: the earlier run did not measure it", mode.name),
            }),
        }
    }
    changes
}

/// Settings that differ. Measured goodput stands behind a comma and differs a little each time.
fn unlike<'a>(earlier: &'a Report, now: &'a Report) -> impl Iterator<Item = Change> + 'a {
    let asked = |value: &'a str| value.split(',').next().unwrap_or_default();
    now.settings.iter().filter_map(move |(name, value)| {
        let before = earlier.settings.iter().find(|(other, _)| other == name);
        let before = before.map_or("nothing", |(_, before)| asked(before));
        (before != asked(value)).then(|| Change {
            direction: Direction::Unlike,
            text: format!("{name}: {before} then, {} now", asked(value)),
        })
    })
}

impl Figure {
    fn change(&self, before: &Mode, now: &Mode) -> Option<Change> {
        let (old, new) = ((self.value)(before)?, (self.value)(now)?);
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
        let settings = vec![("nodes".to_owned(), "4, measured".to_owned())];
        Report { kind: Kind::Cluster, command: String::new(), settings, notes: Vec::new(), modes: vec![mode] }
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
        let mut other = report(mode(1.1, 0));
        other.settings = vec![("nodes".to_owned(), "5, measured".to_owned())];
        let changes = compare(&report(mode(1.1, 0)), &other);
        assert_eq!(changes.first().map(|change| change.direction), Some(Direction::Unlike));
        assert!(!changes.iter().any(Change::is_worse));
    }
}
