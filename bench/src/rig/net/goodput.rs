//! What the links really carry: plain TCP over all of them, before anything else is measured.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::inside::inside;
use super::network::Network;
use super::plan::{Host, Plan};
use crate::rate::Rate;

const PORT: u16 = 7000;
/// The burst, and a connection that has not found its speed yet, are over by then.
const SETTLE: Duration = Duration::from_millis(700);
const MEASURE: Duration = Duration::from_millis(1500);
const CONNECT: Duration = Duration::from_secs(10);
const PIECE: usize = 64 << 10;
/// What Ethernet, IP and TCP (with timestamps) leave of a packet for content.
pub(super) const TCP_SHARE: f64 = 1448.0 / 1514.0;
/// Links that carry less than this part of what they should are slowed down by something else.
const ENOUGH: f64 = 0.95;

/// Bytes of content per second that links carried, over plain TCP.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Goodput {
    /// A node's link: the median of them.
    pub link: f64,
    pub slowest_link: f64,
    /// The origin's link, to all nodes at once.
    pub origin: f64,
    /// The slowest zone's uplink; `None` without zones.
    pub zone: Option<f64>,
}

/// What a link should carry, and whether the check could fill it.
struct Expected {
    what: &'static str,
    rate: Rate,
    /// What the nodes at its other end can send or take.
    ends: Rate,
}

impl Expected {
    /// What to reckon with: what was carried, or, where the ends are too slow to fill the link, what its rate allows.
    fn settle(&self, carried: f64) -> f64 {
        if self.ends < self.rate { self.rate.bytes_per_second() * TCP_SHARE } else { carried }
    }

    fn problem(&self, carried: f64) -> Option<String> {
        let share = carried / (self.rate.bytes_per_second() * TCP_SHARE);
        (share < ENOUGH).then(|| {
            format!(
                "{} carried only {:.0} % of what {} allows, so something else is slow",
                self.what,
                share * 100.0,
                self.rate
            )
        })
    }
}

impl Goodput {
    /// What is wrong with the links, if anything is.
    pub(crate) fn problem(&self, plan: &Plan) -> Option<String> {
        let [link, origin, zone] = expected(plan);
        let zone = self.zone.and_then(|carried| zone.problem(carried));
        link.problem(self.slowest_link).or_else(|| origin.problem(self.origin)).or(zone)
    }
}

fn expected(plan: &Plan) -> [Expected; 3] {
    let members = plan.nodes / plan.zones;
    [
        Expected { what: "a node's link", rate: plan.link, ends: plan.link },
        Expected { what: "the origin's link", rate: plan.origin_link, ends: plan.link.times(plan.nodes) },
        Expected { what: "a zone's uplink", rate: plan.zone_link, ends: plan.link.times(members) },
    ]
}

/// Lets nodes send to each other, the origin to all, and each zone to the next.
pub(crate) async fn measure(network: &Network) -> Result<Goodput> {
    let plan = network.plan();
    let origin = transfers(network, (0..plan.nodes).map(|node| (Host::Origin, Host::Node(node)))).await?;
    // Each direction by itself: what acknowledges the other's bytes takes a part of a link that is not the link's fault.
    let mut links = Vec::new();
    for backwards in [false, true] {
        let pairs = (0..plan.zones).flat_map(|zone| pairs(plan, zone));
        let pairs = pairs.map(|(a, b)| if backwards { (b, a) } else { (a, b) });
        links.extend(transfers(network, pairs).await?);
    }
    links.sort_by(f64::total_cmp);
    let mut zone = None;
    if plan.zones > 1 {
        // Every node to one of the next zone.
        let to = |from: usize| plan.nodes_of((plan.zone(from) + 1) % plan.zones).nth(from / plan.zones);
        let crossing = (0..plan.nodes).map(|from| (from, to(from).unwrap_or(from % plan.zones)));
        let carried = transfers(network, crossing.map(|(a, b)| (Host::Node(a), Host::Node(b)))).await?;
        let of_zone = |zone| plan.nodes_of(zone).filter_map(|member| carried.get(member)).sum::<f64>();
        zone = (0..plan.zones).map(of_zone).reduce(f64::min);
    }
    let [_, expected_origin, expected_zone] = expected(plan);
    Ok(Goodput {
        link: links.get(links.len() / 2).copied().unwrap_or_default(),
        slowest_link: links.first().copied().unwrap_or_default(),
        origin: expected_origin.settle(origin.into_iter().sum()),
        zone: zone.map(|carried| expected_zone.settle(carried)),
    })
}

/// Neighbours in a zone, two by two; of an odd number the last stays alone.
fn pairs(plan: &Plan, zone: usize) -> impl Iterator<Item = (Host, Host)> + use<> {
    let members = plan.nodes_of(zone);
    let others = plan.nodes_of(zone).skip(1);
    members.zip(others).step_by(2).map(|(a, b)| (Host::Node(a), Host::Node(b)))
}

/// Content bytes per second of each transfer, all at once.
async fn transfers(network: &Network, pairs: impl Iterator<Item = (Host, Host)>) -> Result<Vec<f64>> {
    try_join_all(pairs.enumerate().map(|(number, (from, to))| async move {
        let port = PORT + u16::try_from(number)?;
        let (ready, listening) = tokio::sync::oneshot::channel();
        let sender = inside(network.namespace(from), move || send(port, ready));
        let receiver = inside(network.namespace(to), move || async move {
            listening.await.context("the sender of the check did not start")?;
            receive(SocketAddr::from((from.address(), port))).await
        });
        let ((), rate) = tokio::try_join!(sender, receiver)
            .with_context(|| format!("plain TCP from {} to {}", from.name(), to.name()))?;
        Ok(rate)
    }))
    .await
}

/// Sends to the first who connects until that one has enough.
async fn send(port: u16, ready: tokio::sync::oneshot::Sender<()>) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    // If nobody waits any more, nobody connects, and this future is dropped.
    let _ = ready.send(());
    let (mut connection, _) = listener.accept().await?;
    let piece = vec![0; PIECE];
    while connection.write_all(&piece).await.is_ok() {}
    Ok(())
}

async fn receive(sender: SocketAddr) -> Result<f64> {
    let mut connection = tokio::time::timeout(CONNECT, TcpStream::connect(sender)).await??;
    let mut piece = vec![0; PIECE];
    let settled = Instant::now() + SETTLE;
    let end = settled + MEASURE;
    let mut received = 0;
    loop {
        let length = tokio::time::timeout(CONNECT, connection.read(&mut piece)).await??;
        let now = Instant::now();
        if now >= end || length == 0 {
            return Ok(received as f64 / now.duration_since(settled).as_secs_f64());
        }
        if now > settled {
            received += length;
        }
    }
}
