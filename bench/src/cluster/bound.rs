//! The least time that the links allow, if bytes were a fluid that every node could pass on as it arrives.
//!
//! It is the time of the slowest cut through the network. As all nodes' links are alike, what all nodes need together
//! over all that can send, `N·F / (u_origin + N·u)`, is always less than what one node needs alone, `F / u`; and so it
//! is within zones and among them. What remains are the narrow places that all bytes have to pass.

use super::scenario::Scenario;
use crate::rig::net::{Goodput, Plan};

/// The fluid bound in seconds, which no schedule can beat.
pub(super) fn seconds(plan: &Plan, goodput: &Goodput, scenario: &Scenario) -> f64 {
    let holds = |node: usize| scenario.holders().contains(&node);
    let lacks = |zone: &usize| !plan.nodes_of(*zone).any(holds);
    let origin = scenario.holders().is_empty().then_some(goodput.origin);
    let uplink = goodput.zone.filter(|_| (0..plan.zones).any(|zone| lacks(&zone)));
    let narrowest = origin.into_iter().chain(uplink).fold(goodput.link, f64::min);
    scenario.lacking() as f64 / narrowest
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cluster::scenario::{Images, ModeName};
    use crate::rig::image::Image;

    /// The bound for 100 bytes over nodes' links of 10 bytes a second.
    fn bound(mode: ModeName, origin: f64, zones: Option<f64>) -> f64 {
        let rate = "50mbit".parse().unwrap();
        let count = if zones.is_some() { 4 } else { 1 };
        let plan = Plan { nodes: 16, zones: count, link: rate, origin_link: rate, zone_link: rate };
        let goodput = Goodput { link: 10.0, slowest_link: 10.0, origin, zone: zones };
        let image = Image::new("image", Vec::new());
        let bytes = image.bytes() as f64;
        let images = Images { cold: image, rolling: None };
        let scenario = mode.scenario(&images, &plan, Duration::from_secs(10));
        (seconds(&plan, &goodput, &scenario) * 100.0 / bytes).round()
    }

    #[test]
    fn the_narrowest_place_decides() {
        assert_eq!(bound(ModeName::Shoal, 10.0, None), 10.0, "a node's link");
        assert_eq!(bound(ModeName::Shoal, 2.0, None), 50.0, "the origin's link");
        assert_eq!(bound(ModeName::Shoal, 100.0, None), 10.0, "a fast origin makes no node's link faster");
        assert_eq!(bound(ModeName::Shoal, 10.0, Some(4.0)), 25.0, "a zone's uplink");
        assert_eq!(bound(ModeName::Direct, 10.0, None), 10.0, "it is the network's, whatever the mode");
        assert_eq!(bound(ModeName::ShoalStaggered, 10.0, None), 10.0);
    }

    #[test]
    fn what_is_there_already_need_not_move() {
        assert_eq!(bound(ModeName::ShoalWarm, 10.0, None), 0.0);
        assert_eq!(bound(ModeName::ShoalPreheated, 1.0, None), 10.0, "the origin is not needed");
        assert_eq!(bound(ModeName::ShoalPreheated, 1.0, Some(1.0)), 10.0, "nor are the uplinks");
    }
}
