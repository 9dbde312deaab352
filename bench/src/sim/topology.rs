//! Which links lie between two nodes, how long a message takes, and what the links allow at best.

use super::arguments::SimArguments;
use super::flows::{Flows, LinkId, Path};
use super::queue::Nanos;
use crate::rate::to_f64;

/// A pair of links, up and down.
#[derive(Clone, Copy, Debug)]
struct Both {
    up: LinkId,
    down: LinkId,
}

/// Where a node is attached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Port {
    nic: Both,
    /// Numbered over all zones.
    pub(super) rack: u32,
    pub(super) zone: u32,
}

/// The network.
#[derive(Debug)]
pub(super) struct Topology {
    origin: LinkId,
    zones: Vec<Option<Both>>,
    racks: Vec<Option<Both>>,
    racks_per_zone: u32,
    latency: Nanos,
    zone_latency: Nanos,
}

pub(super) fn nanos(time: std::time::Duration) -> Nanos {
    Nanos::try_from(time.as_nanos()).unwrap_or(Nanos::MAX)
}

fn both(flows: &mut Flows, rate: f64) -> Both {
    Both { up: flows.add_link(rate), down: flows.add_link(rate) }
}

impl Topology {
    pub(super) fn new(flows: &mut Flows, arguments: &SimArguments) -> Self {
        let origin = arguments.origin_link.unwrap_or(arguments.link).bytes_per_second();
        let origin = flows.add_link(origin);
        let zone = arguments.zone_link.filter(|_| arguments.zones > 1).map(|rate| rate.bytes_per_second());
        let rack = arguments.rack_link.map(|rate| rate.bytes_per_second());
        let racks = arguments.zones * arguments.racks;
        Self {
            origin,
            zones: (0..arguments.zones).map(|_| zone.map(|rate| both(flows, rate))).collect(),
            racks: (0..racks).map(|_| rack.map(|rate| both(flows, rate))).collect(),
            racks_per_zone: arguments.racks,
            latency: nanos(arguments.latency),
            zone_latency: nanos(arguments.zone_latency),
        }
    }

    /// Attaches a node; the first to the first zone and rack, the next to the next zone.
    pub(super) fn attach(&self, flows: &mut Flows, number: u32, rate: f64) -> Port {
        let zones = u32::try_from(self.zones.len()).unwrap_or(u32::MAX);
        let zone = number % zones;
        let rack = zone * self.racks_per_zone + number / zones % self.racks_per_zone;
        Port { nic: both(flows, rate), rack, zone }
    }

    pub(super) fn latency(&self, a: &Port, b: &Port) -> Nanos {
        if a.zone == b.zone { self.latency } else { self.zone_latency }
    }

    /// To the scheduler, which stands in one of the zones.
    pub(super) fn scheduler_latency(&self) -> Nanos {
        if self.zones.len() > 1 { self.zone_latency } else { self.latency }
    }

    pub(super) fn between(&self, from: &Port, to: &Port) -> Path {
        let mut path = Path::default();
        path.push(from.nic.up);
        if from.rack != to.rack {
            self.leave(&mut path, from, to);
        }
        path.push(to.nic.down);
        path
    }

    fn leave(&self, path: &mut Path, from: &Port, to: &Port) {
        let out = |links: &[Option<Both>], at: u32| links.get(at as usize).copied().flatten();
        if let Some(rack) = out(&self.racks, from.rack) {
            path.push(rack.up);
        }
        if from.zone != to.zone {
            for (zone, up) in [(from.zone, true), (to.zone, false)] {
                if let Some(zone) = out(&self.zones, zone) {
                    path.push(if up { zone.up } else { zone.down });
                }
            }
        }
        if let Some(rack) = out(&self.racks, to.rack) {
            path.push(rack.down);
        }
    }

    /// The origin stands outside of all zones.
    pub(super) fn origin_to(&self, to: &Port) -> Path {
        let mut path = Path::default();
        path.push(self.origin);
        if let Some(zone) = self.zones.get(to.zone as usize).copied().flatten() {
            path.push(zone.down);
        }
        if let Some(rack) = self.racks.get(to.rack as usize).copied().flatten() {
            path.push(rack.down);
        }
        path.push(to.nic.down);
        path
    }
}

/// The least time in which `bytes` can reach every node, seconds: the fluid bound of a network in which content may
/// be passed on at once and cut as finely as one likes.
///
/// T ≥ max(F/u₀, F/min dᵢ, N·F/(u₀ + Σ uᵢ)) for the origin's rate u₀ and members' rates up uᵢ and down dᵢ (Kumar and
/// Ross, "Peer-Assisted File Distribution: The Minimum Distribution Time", 2006). The members are first the nodes, then
/// the racks, then the zones: a zone as a whole has to receive every byte once as well, and what it receives
/// comes from the origin or from another zone.
pub(super) fn bound(arguments: &SimArguments, node_rates: &[f64], bytes: u64) -> f64 {
    let bytes = to_f64(bytes);
    let origin = arguments.origin_link.unwrap_or(arguments.link).bytes_per_second();
    let members = |rates: &mut dyn Iterator<Item = f64>| {
        let (count, sum, least) = rates.fold((0u64, 0.0, f64::INFINITY), |(count, sum, least), rate| {
            (count + 1, sum + rate, rate.min(least))
        });
        (bytes / least).max(to_f64(count) * bytes / (origin + sum))
    };
    let mut time = (bytes / origin).max(members(&mut node_rates.iter().copied()));
    let zones = u64::from(arguments.zones);
    let racks = zones * u64::from(arguments.racks);
    for (count, rate) in [(racks, arguments.rack_link), (zones, arguments.zone_link)] {
        if let Some(rate) = rate.filter(|_| count > 1) {
            time = time.max(members(&mut (0..count).map(|_| rate.bytes_per_second())));
        }
    }
    time
}

#[cfg(test)]
mod tests {
    use super::super::arguments::parsed;
    use super::*;

    // Zones whose uplinks together are slower than their nodes.
    #[test]
    fn the_narrowest_part_of_the_network_bounds() {
        let bound_of = |line: &str, rates: &[f64]| bound(&parsed(line), rates, 8_000_000);
        // 8 MB at 8 Mbit/s.
        assert_eq!(bound_of("sim --link 8mbit", &[1e6; 4]), 8.0);
        assert_eq!(bound_of("sim --link 8mbit --origin-link 4mbit", &[1e6; 4]), 16.0);
        assert_eq!(bound_of("sim --link 8mbit --origin-link 16mbit", &[1e6, 5e5]), 16.0);
        assert_eq!(bound_of("sim --link 8mbit --zones 4 --zone-link 2mbit", &[1e6; 4]), 32.0);
    }

    #[test]
    fn flows_share_the_uplinks_of_the_zones_that_they_leave_and_enter() {
        // Nodes in turn in zones 0 and 1; uplinks of 1 MB/s, all else 100 MB/s.
        let arguments = parsed("sim --link 800mbit --zones 2 --zone-link 8mbit");
        let mut flows = Flows::default();
        let network = Topology::new(&mut flows, &arguments);
        let ports: Vec<Port> = (0..6)
            .map(|number| network.attach(&mut flows, number, arguments.link.bytes_per_second()))
            .collect();
        let crossing = |a: usize, b: usize| network.between(&ports[a], &ports[b]);
        // Three enter zone 1, one of them from the origin; one leaves it, one stays in zone 0.
        let paths =
            [crossing(0, 1), crossing(2, 3), network.origin_to(&ports[5]), crossing(1, 0), crossing(2, 4)];
        let started: Vec<_> = paths.into_iter().map(|path| flows.start(path, 1_000_000)).collect();
        let mut ends = vec![0.0; started.len()];
        while let Some(at) = flows.next_end() {
            let flow = flows.take_end().unwrap();
            assert_eq!(flows.stop(flow), 1_000_000);
            ends[started.iter().position(|other| *other == flow).unwrap()] = to_f64(at) / 1e9;
        }
        for (end, expected) in ends.iter().zip([3.0, 3.0, 3.0, 1.0, 0.01]) {
            assert!((end / expected - 1.0).abs() < 0.05, "{ends:?}");
        }
    }
}
