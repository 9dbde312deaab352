//! CPU costs by name, each the median of several rounds.

use std::collections::BTreeMap;

use crate::report::Report;
use crate::second_pull::median;

/// CPU seconds per GiB. The least of the rounds would compare a lucky floor with an unlucky daemon.
#[derive(Clone, Debug, Default)]
pub(crate) struct Costs {
    rounds: BTreeMap<&'static str, Vec<f64>>,
    order: Vec<&'static str>,
}

impl Costs {
    pub(crate) fn record(&mut self, what: &'static str, seconds: f64) {
        let rounds = self.rounds.entry(what).or_default();
        if rounds.is_empty() {
            self.order.push(what);
        }
        rounds.push(seconds);
    }

    /// The sum of these.
    pub(crate) fn sum(&self, what: &[&str]) -> f64 {
        // A name that was not measured makes the sum, and all that is divided by it, visibly wrong.
        what.iter()
            .map(|what| self.rounds.get(what).map_or(f64::NAN, |rounds| median(&mut rounds.clone())))
            .sum()
    }

    pub(crate) fn tell(&self, report: &mut Report) {
        for what in &self.order {
            report.add(*what, self.sum(&[what]), "CPU-s/GiB");
        }
    }
}
