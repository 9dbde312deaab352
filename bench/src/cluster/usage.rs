//! What processes and the machine use, as `/proc` tells it.

use anyhow::{Context, Result};

/// The unit of CPU times in `/proc` (USER_HZ, 100 on every machine that Linux supports here).
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU-seconds of a process so far, user and system, threads that ended included.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The program's name is in parentheses and may hold anything; utime and stime are fields 14 and 15.
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after_name.split(' ').skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>();
    Ok(ticks.with_context(|| format!("parse {path}"))? / TICKS_PER_SECOND)
}

/// Anonymous memory of a process in bytes: heap and stacks, not the page cache.
pub(super) fn anonymous_memory(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("RssAnon is missing")?;
    Ok(kib.parse::<u64>()? * 1024)
}

/// Time of all processors since the machine started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Processors {
    idle: f64,
    total: f64,
}

impl Processors {
    pub(super) fn now() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        Self::parse(&stat).context("parse /proc/stat")
    }

    /// The first line is: cpu user nice system idle iowait irq softirq steal guest guest_nice; the last two are part
    /// of the first two. What a hypervisor stole counts as busy: nobody here could have used it.
    fn parse(stat: &str) -> Option<Self> {
        let times = stat.lines().next()?.split_whitespace().skip(1).take(8);
        let times = times.map(str::parse).collect::<Result<Vec<f64>, _>>().ok()?;
        Some(Self { idle: times.get(3)? + times.get(4)?, total: times.iter().sum() })
    }

    /// The share of time that the processors were busy since then, 0 to 1.
    pub(super) fn busy_since(self, start: Self) -> f64 {
        let total = self.total - start.total;
        if total > 0.0 { 1.0 - (self.idle - start.idle) / total } else { 0.0 }
    }

    /// So much later, of which they were busy for this share.
    #[cfg(test)]
    pub(super) fn after(self, time: f64, busy: f64) -> Self {
        Self { idle: self.idle + time * (1.0 - busy), total: self.total + time }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stolen_counts_as_busy() {
        let at = |text| Processors::parse(text).unwrap();
        let (start, end) = (at("cpu 0 0 0 0 0 0 0 0 0 0\n"), at("cpu 10 0 10 50 10 0 5 15 10 0\ncpu0 1"));
        assert!((end.busy_since(start) - 0.4).abs() < 1e-9);
    }
}
