//! The network itself: made with `ip` and `tc`, removed when dropped.

use anyhow::{Context, Result};

use super::iproute::{batch, run};
use super::names::{RunName, remove_namespace};
use super::plan::{CORE, Host, Plan, downlink, uplink, zone_bridge};
use crate::rate::Rate;

/// What a link lets through at once. Far less than what is measured, and no smaller than the largest packet that
/// the kernel hands to a link as one.
const BURST_BYTES: u32 = 128 << 10;
/// What waits before a link; more is dropped.
const QUEUE_BYTES: u32 = 256 << 10;

#[derive(Debug)]
pub(crate) struct Network {
    name: RunName,
    plan: Plan,
}

impl Network {
    /// Makes it, with all links shaped.
    pub(crate) fn make(name: RunName, plan: Plan) -> Result<Self> {
        // From here on its drop removes what was made, also of a network that was made in part.
        let network = Self { name, plan };
        network.add_namespace(CORE)?;
        network.skip_packet_filters()?;
        batch("ip", &network.core(), &network.bridges()).context("cannot make the bridges")?;
        for host in plan.hosts() {
            network.add_host(host).with_context(|| format!("cannot connect {}", host.name()))?;
        }
        network.shape()?;
        Ok(network)
    }

    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(crate) fn namespace(&self, host: Host) -> String {
        self.name.namespace(&host.name())
    }

    /// The namespace where all links end.
    pub(crate) fn core(&self) -> String {
        self.name.namespace(CORE)
    }

    /// Holds every link to its rate, both ways.
    pub(crate) fn shape(&self) -> Result<()> {
        let shaper = |interface: &str, rate: Rate| {
            format!(
                "qdisc replace dev {interface} root tbf rate {}bit burst {BURST_BYTES} limit {QUEUE_BYTES}",
                rate.bits_per_second()
            )
        };
        self.each_link(shaper).context("cannot shape the links")
    }

    /// Lets everything through: for what has to be on the nodes before something is measured.
    pub(crate) fn unshape(&self) -> Result<()> {
        let open = |interface: &str, _: Rate| format!("qdisc delete dev {interface} root");
        self.each_link(open).context("cannot open the links")
    }

    fn each_link(&self, command: impl Fn(&str, Rate) -> String) -> Result<()> {
        let mut core = Vec::new();
        for zone in self.zones() {
            core.extend([uplink(zone), downlink(zone)].map(|end| command(&end, self.plan.zone_link)));
        }
        for host in self.plan.hosts() {
            if let Some(rate) = self.plan.rate(host) {
                core.push(command(&host.port(), rate));
                batch("tc", &self.namespace(host), &[command("eth0", rate)])?;
            }
        }
        batch("tc", &self.core(), &core)
    }

    /// Zones that have an uplink.
    fn zones(&self) -> std::ops::Range<usize> {
        if self.plan.zones > 1 { 0..self.plan.zones } else { 0..0 }
    }

    fn bridges(&self) -> Vec<String> {
        let mut commands = vec![bridge(CORE), up(CORE)];
        for zone in self.zones() {
            let (up_end, down_end, zone) = (uplink(zone), downlink(zone), zone_bridge(zone));
            commands.extend([
                bridge(&zone),
                up(&zone),
                format!("link add {up_end} type veth peer name {down_end}"),
                format!("link set {up_end} master {zone} up"),
                format!("link set {down_end} master {CORE} up"),
            ]);
        }
        commands
    }

    fn add_host(&self, host: Host) -> Result<()> {
        let namespace = self.namespace(host);
        self.add_namespace(&host.name())?;
        let (port, bridge) = (host.port(), self.plan.bridge(host));
        let link = format!("link add {port} type veth peer name eth0 netns {namespace}");
        batch("ip", &self.core(), &[link, format!("link set {port} master {bridge} up")])?;
        let address = format!("address add {}/16 dev eth0", host.address());
        batch("ip", &namespace, &[up("lo"), address, up("eth0")])
    }

    /// Switches do not look into what they pass on. Where the kernel's module for that is loaded, for containers on
    /// the machine, its cost is no part of a cluster's.
    fn skip_packet_filters(&self) -> Result<()> {
        let off = "for filter in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -w $filter ] || echo 0 > $filter; done";
        run("ip", &["netns", "exec", &self.core(), "sh", "-c", off], "").map(drop)
    }

    fn add_namespace(&self, name: &str) -> Result<()> {
        run("ip", &["netns", "add", &self.name.namespace(name)], "").map(drop)
    }
}

fn bridge(name: &str) -> String {
    // Without a spanning tree, which would hold back the first packets.
    format!("link add {name} type bridge stp_state 0 mcast_snooping 0")
}

fn up(interface: &str) -> String {
    format!("link set {interface} up")
}

impl Drop for Network {
    fn drop(&mut self) {
        let names = self.plan.hosts().map(|host| host.name()).chain([CORE.to_owned()]);
        for namespace in names.map(|name| self.name.namespace(&name)) {
            if super::names::namespace_file(&namespace).exists()
                && let Err(error) = remove_namespace(&namespace)
            {
                eprintln!("shoal: cannot remove the namespace {namespace}: {error:#}");
            }
        }
    }
}
