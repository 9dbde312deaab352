//! The ways of getting the image onto all nodes that are measured side by side.

use std::time::Duration;

use clap::ValueEnum;
use shoal_proto::Digest;

use crate::rig::image::Image;
use crate::rig::net::Plan;

/// One way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ModeName {
    /// Every node pulls from the registry
    Direct,
    /// Every node pulls from one pull-through cache (docker-registry), connected as the registry is
    Cache,
    /// Through Shoal, nothing cached; nodes know their zones
    Shoal,
    /// Through Shoal, nothing cached; nodes do not know their zones
    ShoalFlat,
    /// Every node pulls again what it has
    ShoalWarm,
    /// Every node has the image before, which shares 90 % of the bytes
    ShoalRolling,
    /// Nodes come one after the other, over the time that one alone would need
    ShoalStaggered,
    /// One node comes when the others are half done
    ShoalLate,
    /// One node of each zone has the image already
    ShoalPreheated,
}

/// How bytes come to the nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Direct,
    Cache,
    Shoal { zones: bool },
}

/// The images of a run.
#[derive(Clone, Debug)]
pub(super) struct Images {
    pub cold: Image,
    /// An image and its successor, which shares most bytes with it; not where an image was given.
    pub rolling: Option<(Image, Image)>,
}

/// What is done in a mode.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub way: Way,
    pub image: Image,
    /// What some nodes pull before anything is measured, and which.
    pub before: Option<(Image, Vec<usize>)>,
    /// Layers that clients do not ask for, as they have unpacked them.
    pub unpacked: Vec<Digest>,
    /// Who pulls, and when, counted from the start.
    pub arrivals: Vec<(usize, Duration)>,
}

impl ModeName {
    pub(super) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// `alone` is how long one node needs that has the network for itself.
    pub(super) fn scenario(self, images: &Images, plan: &Plan, alone: Duration) -> Scenario {
        let all = || 0..plan.nodes;
        let at_once = |nodes: Vec<usize>| nodes.into_iter().map(|node| (node, Duration::ZERO)).collect();
        let mut scenario = Scenario {
            way: Way::Shoal { zones: plan.zones > 1 },
            image: images.cold.clone(),
            before: None,
            unpacked: Vec::new(),
            arrivals: at_once(all().collect()),
        };
        match self {
            Self::Direct => scenario.way = Way::Direct,
            Self::Cache => scenario.way = Way::Cache,
            Self::Shoal => {}
            Self::ShoalFlat => scenario.way = Way::Shoal { zones: false },
            Self::ShoalWarm => scenario.before = Some((images.cold.clone(), all().collect())),
            Self::ShoalRolling => {
                let Some((old, new)) = images.rolling.clone() else { return scenario };
                scenario.unpacked = old.layers.iter().map(|layer| layer.digest).collect();
                scenario.image = new;
                scenario.before = Some((old, all().collect()));
            }
            Self::ShoalStaggered => {
                let last = plan.nodes.saturating_sub(1).max(1) as f64;
                scenario.arrivals = all().map(|node| (node, alone.mul_f64(node as f64 / last))).collect();
            }
            Self::ShoalLate => {
                if let Some((_, at)) = scenario.arrivals.last_mut() {
                    *at = alone / 2;
                }
            }
            Self::ShoalPreheated => {
                let holders = || (0..plan.zones).filter_map(|zone| plan.nodes_of(zone).next());
                scenario.before = Some((images.cold.clone(), holders().collect()));
                scenario.arrivals =
                    at_once(all().filter(|node| holders().all(|held| held != *node)).collect());
            }
        }
        scenario
    }
}

impl Scenario {
    /// Nodes that have all of the image from the start.
    pub(super) fn holders(&self) -> &[usize] {
        match &self.before {
            Some((before, nodes)) if before.manifest == self.image.manifest => nodes,
            _ => &[],
        }
    }

    /// Bytes that each node lacks that pulls.
    pub(super) fn lacking(&self) -> u64 {
        let has_all = |node: &usize| self.holders().contains(node);
        if self.arrivals.iter().all(|(node, _)| has_all(node)) {
            return 0;
        }
        self.image.bytes_without(&self.unpacked)
    }
}
