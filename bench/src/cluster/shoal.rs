//! Shoal itself: a scheduler and a daemon per node, processes of the running program.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::usage::{anonymous_memory, cpu_seconds};
use crate::rig::members::{Members, joined, open};
use crate::rig::net::Network;
use crate::rig::process::Process;

/// Between two looks at the memory of all processes.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The running processes of a cluster.
#[derive(Debug)]
pub(super) struct Shoal {
    scheduler: Process,
    daemons: Vec<Process>,
}

/// Anonymous memory in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    /// Of the daemon that has most.
    pub daemon: u64,
    pub scheduler: u64,
}

impl Shoal {
    /// Starts all of it with empty stores in `folder`; `zones` tells whether daemons know where they stand.
    pub(super) async fn start(network: &Network, folder: &Path, zones: bool) -> Result<Self> {
        let members = Members::new(network, folder)?;
        let mut scheduler = members.scheduler().await?;
        let plan = network.plan();
        let zone = |node| if zones { format!("zone-{}", plan.zone(node)) } else { String::new() };
        let mut daemons: Vec<Process> =
            (0..plan.nodes).map(|node| members.daemon(node, &zone(node))).collect::<Result<_>>()?;
        for daemon in &mut daemons {
            joined(daemon).await?;
        }
        open(&mut scheduler).await?;
        Ok(Self { scheduler, daemons })
    }

    /// CPU-seconds of all processes so far.
    pub(super) fn cpu_seconds(&self) -> Result<f64> {
        self.daemons.iter().chain([&self.scheduler]).map(|process| cpu_seconds(process.pid())).sum()
    }

    /// What a node's daemon said last.
    pub(super) fn tail(&self, node: usize) -> String {
        self.daemons.get(node).map(Process::tail).unwrap_or_default()
    }
}

/// Watches the memory of all processes until asked for the peaks.
#[derive(Debug)]
pub(super) struct PeakMemory {
    stop: oneshot::Sender<()>,
    watching: JoinHandle<Memory>,
}

impl PeakMemory {
    pub(super) fn watch(shoal: &Shoal) -> Self {
        let scheduler = shoal.scheduler.pid();
        let daemons: Vec<u32> = shoal.daemons.iter().map(Process::pid).collect();
        let (stop, mut stopped) = oneshot::channel();
        let watching = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(LOOK_EVERY);
            let mut peak = Memory::default();
            loop {
                // A process that ended has no memory; why it ended shows elsewhere.
                let now = |pid: &u32| anonymous_memory(*pid).unwrap_or_default();
                peak.scheduler = peak.scheduler.max(now(&scheduler));
                peak.daemon = daemons.iter().map(now).fold(peak.daemon, u64::max);
                tokio::select! {
                    _ = ticks.tick() => {}
                    _ = &mut stopped => return peak,
                }
            }
        });
        Self { stop, watching }
    }

    pub(super) async fn peak(self) -> Result<Memory> {
        // It ends only when told to.
        let _ = self.stop.send(());
        Ok(self.watching.await?)
    }
}
