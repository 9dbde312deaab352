//! The least time that the links allow, if bytes were a fluid that every node could pass on as it arrives.

use std::time::Duration;

use super::net::{Goodput, Plan};
use super::scenario::Scenario;

/// A cut through the network: so many bytes have to pass links of so many bytes per second together.
struct Cut {
    bytes: f64,
    rate: f64,
}

/// The fluid bound in seconds: the time of the slowest cut, which no schedule can beat.
pub(super) fn seconds(plan: &Plan, goodput: &Goodput, scenario: &Scenario) -> f64 {
    let lacking = scenario.lacking() as f64;
    cuts(plan, goodput, scenario, lacking).into_iter().map(|cut| cut.bytes / cut.rate).fold(0.0, f64::max)
}

fn cuts(plan: &Plan, goodput: &Goodput, scenario: &Scenario, image: f64) -> Vec<Cut> {
    let holds = |node: &usize| scenario.holders().contains(node);
    // Only those who come first compete for sure: who comes later may find the others done.
    let competes = |node: &usize| scenario.arrivals.contains(&(*node, Duration::ZERO));
    let links = |nodes: usize| goodput.link * nodes as f64;
    let competing = (0..plan.nodes).filter(competes).count() as f64;
    let mut cuts = vec![
        Cut { bytes: image, rate: goodput.link },
        Cut { bytes: image * competing, rate: goodput.origin + links(plan.nodes) },
    ];
    if scenario.holders().is_empty() {
        cuts.push(Cut { bytes: image, rate: goodput.origin });
    }
    let Some(uplink) = goodput.zone else { return cuts };
    let mut copies = 0.0;
    for zone in 0..plan.zones {
        let competing = plan.nodes_of(zone).filter(competes).count() as f64;
        let members = plan.nodes_of(zone).count();
        cuts.push(Cut { bytes: image * competing, rate: uplink + links(members) });
        if !plan.nodes_of(zone).any(|node| holds(&node)) {
            cuts.push(Cut { bytes: image, rate: uplink });
            copies += if competing > 0.0 { 1.0 } else { 0.0 };
        }
    }
    cuts.push(Cut { bytes: image * copies, rate: goodput.origin + uplink * plan.zones as f64 });
    cuts
}
