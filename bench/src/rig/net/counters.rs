//! What passed the links, by the kernel's own count.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::sync::oneshot;

use super::inside::inside;
use super::plan::{Host, Plan, uplink};

/// Often enough for a curve, too seldom to cost anything.
const SAMPLE_EVERY: Duration = Duration::from_millis(200);

/// Bytes on the wire since the links exist, as seen at their bridges.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// What the origin sent.
    pub from_origin: u64,
    /// What the pull-through cache sent.
    pub from_cache: u64,
    /// What all nodes received.
    pub to_nodes: u64,
    /// What left a zone.
    pub between_zones: u64,
}

impl Counters {
    pub(crate) fn since(self, start: Self) -> Self {
        Self {
            from_origin: self.from_origin - start.from_origin,
            from_cache: self.from_cache - start.from_cache,
            to_nodes: self.to_nodes - start.to_nodes,
            between_zones: self.between_zones - start.between_zones,
        }
    }
}

/// Reads the counters again and again.
#[derive(Debug)]
pub(crate) struct Watch {
    stop: oneshot::Sender<()>,
    watching: tokio::task::JoinHandle<Result<Vec<(Instant, Counters)>>>,
}

impl Watch {
    /// `core` is the namespace where all links end. `seen` is told the nodes' bytes so far.
    pub(crate) fn start(core: String, plan: Plan, seen: impl Fn(u64) + Send + 'static) -> Self {
        let (stop, mut stopped) = oneshot::channel();
        let watch = inside(core, move || async move {
            let mut ticks = tokio::time::interval(SAMPLE_EVERY);
            let first = read(&plan)?;
            let mut samples = vec![(Instant::now(), first)];
            loop {
                let last = tokio::select! {
                    _ = ticks.tick() => false,
                    _ = &mut stopped => true,
                };
                let counters = read(&plan)?;
                seen(counters.since(first).to_nodes);
                samples.push((Instant::now(), counters));
                if last {
                    return Ok(samples);
                }
            }
        });
        Self { stop, watching: tokio::spawn(watch) }
    }

    /// All that was read, the last of it now.
    pub(crate) async fn samples(self) -> Result<Vec<(Instant, Counters)>> {
        // It may have failed, which the next line tells.
        let _ = self.stop.send(());
        self.watching.await?
    }
}

/// Reads them in the namespace of the calling thread.
fn read(plan: &Plan) -> Result<Counters> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev").context("read the links' counters")?;
    let links: HashMap<&str, Link> = text.lines().filter_map(link).collect();
    let get = |name: &str| links.get(name).copied().with_context(|| format!("no link {name}"));
    let mut counters = Counters {
        from_origin: get(&Host::Origin.port())?.received,
        from_cache: get(&Host::Cache.port())?.received,
        ..Counters::default()
    };
    for node in 0..plan.nodes {
        counters.to_nodes += get(&Host::Node(node).port())?.sent;
    }
    if plan.zones > 1 {
        for zone in 0..plan.zones {
            counters.between_zones += get(&uplink(zone))?.sent;
        }
    }
    Ok(counters)
}

/// Bytes of an interface.
#[derive(Clone, Copy)]
struct Link {
    received: u64,
    sent: u64,
}

/// A line is a name, a colon, eight numbers for what was received and eight for what was sent, bytes first.
fn link(line: &str) -> Option<(&str, Link)> {
    let (name, numbers) = line.split_once(':')?;
    let mut numbers = numbers.split_whitespace();
    let received = numbers.next()?.parse().ok()?;
    let sent = numbers.nth(7)?.parse().ok()?;
    Some((name.trim(), Link { received, sent }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_kernel_is_read() {
        let line = " node3: 1500 10 0 0 0 0 0 0 3000 20 0 0 0 0 0 0";
        let (name, link) = link(line).unwrap();
        assert_eq!((name, link.received, link.sent), ("node3", 1500, 3000));
        assert!(super::link("Inter-|   Receive  |  Transmit").is_none());
    }
}
