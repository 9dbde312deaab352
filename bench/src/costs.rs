//! CPU costs by name, each the least of several rounds.

use std::collections::BTreeMap;

use crate::report::Report;

/// CPU seconds per GiB. Whatever else runs on the machine, and memory that a virtual machine's host must first
/// provide, only ever adds to a cost, so the least is nearest to the truth.
#[derive(Clone, Debug, Default)]
pub(crate) struct Costs {
    least: BTreeMap<&'static str, f64>,
    order: Vec<&'static str>,
}

impl Costs {
    pub(crate) fn record(&mut self, what: &'static str, seconds: f64) {
        let least = self.least.entry(what).or_insert_with(|| {
            self.order.push(what);
            seconds
        });
        *least = least.min(seconds);
    }

    /// The sum of these.
    pub(crate) fn sum(&self, what: &[&str]) -> f64 {
        // A name that was not measured makes the sum, and all that is divided by it, visibly wrong.
        what.iter().map(|what| self.least.get(what).copied().unwrap_or(f64::NAN)).sum()
    }

    pub(crate) fn tell(&self, report: &mut Report) {
        for what in &self.order {
            report.add(*what, self.sum(&[what]), "CPU-s/GiB");
        }
    }
}
