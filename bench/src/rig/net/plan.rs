//! Who is where in the network that is made, and over which links.

use std::net::Ipv4Addr;

use crate::rate::Rate;

/// Addresses of nodes fill `10.99.1.1` and up; far more processes than one machine carries.
pub(crate) const MAX_NODES: usize = 200;
pub(crate) const MAX_ZONES: usize = 16;

/// A machine of the cluster: a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    Origin,
    /// The pull-through cache, connected as the origin is.
    Cache,
    /// Not shaped: what it says to nodes passes their links.
    Scheduler,
    Node(usize),
}

/// The links of the network. A node's link leads to the bridge of its zone; zones, origin, cache and scheduler meet
/// on one more bridge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub nodes: usize,
    pub zones: usize,
    pub link: Rate,
    pub origin_link: Rate,
    pub zone_link: Rate,
}

impl Host {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Origin => "origin".to_owned(),
            Self::Cache => "cache".to_owned(),
            Self::Scheduler => "scheduler".to_owned(),
            Self::Node(number) => format!("node{number}"),
        }
    }

    pub(crate) fn address(self) -> Ipv4Addr {
        let last = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
        match self {
            Self::Origin => Ipv4Addr::new(10, 99, 0, 1),
            Self::Cache => Ipv4Addr::new(10, 99, 0, 2),
            Self::Scheduler => Ipv4Addr::new(10, 99, 0, 3),
            Self::Node(number) => Ipv4Addr::new(10, 99, 1, last(number + 1)),
        }
    }

    /// Its end of the link is always `eth0`; this is the other end, at the bridge.
    pub(crate) fn port(self) -> String {
        self.name()
    }
}

impl Plan {
    pub(crate) fn hosts(&self) -> impl Iterator<Item = Host> + use<> {
        [Host::Origin, Host::Cache, Host::Scheduler].into_iter().chain((0..self.nodes).map(Host::Node))
    }

    pub(crate) fn zone(&self, node: usize) -> usize {
        node % self.zones
    }

    pub(crate) fn nodes_of(&self, zone: usize) -> impl Iterator<Item = usize> + use<> {
        (zone..self.nodes).step_by(self.zones)
    }

    pub(super) fn bridge(&self, host: Host) -> String {
        match host {
            Host::Node(node) if self.zones > 1 => zone_bridge(self.zone(node)),
            _ => CORE.to_owned(),
        }
    }

    pub(super) fn rate(&self, host: Host) -> Option<Rate> {
        match host {
            Host::Origin | Host::Cache => Some(self.origin_link),
            Host::Scheduler => None,
            Host::Node(_) => Some(self.link),
        }
    }
}

/// The bridge where zones and origin meet, and the namespace of all bridges.
pub(super) const CORE: &str = "core";

pub(super) fn zone_bridge(zone: usize) -> String {
    format!("zone{zone}")
}

/// The zone's end of its uplink: what leaves here leaves the zone.
pub(crate) fn uplink(zone: usize) -> String {
    format!("up{zone}")
}

/// The other end: what leaves here enters the zone.
pub(crate) fn downlink(zone: usize) -> String {
    format!("down{zone}")
}
