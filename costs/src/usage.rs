//! What processes and threads use, as `/proc` tells it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

/// The unit of CPU times in `/proc/PID/stat` (USER_HZ, 100 on every machine that Linux supports here).
const TICKS_PER_SECOND: f64 = 100.0;
/// Between two looks at a process's memory.
const SAMPLE_EVERY: Duration = Duration::from_millis(20);

/// CPU seconds of a process so far, user and system, threads that ended included.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The program's name is in parentheses and may hold anything; utime and stime are fields 14 and 15.
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks = after_name.split(' ').skip(11).take(2).map(str::parse::<f64>).sum::<Result<f64, _>>();
    Ok(ticks.with_context(|| format!("parse {path}"))? / TICKS_PER_SECOND)
}

/// CPU seconds of the calling thread so far.
pub(crate) fn thread_cpu_seconds() -> Result<f64> {
    let path = "/proc/thread-self/schedstat";
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let nanoseconds: f64 = text.split(' ').next().unwrap_or_default().parse().context(path)?;
    Ok(nanoseconds / 1e9)
}

/// Anonymous memory of a process in bytes: heap and stacks, not the page cache.
pub(crate) fn anonymous_memory(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).context("RssAnon is missing")?;
    Ok(kib.parse::<u64>()? * 1024)
}

/// Watches the memory of a process until asked for the peak.
#[derive(Debug)]
pub(crate) struct PeakMemory {
    stop: Arc<AtomicBool>,
    watcher: JoinHandle<Result<u64>>,
}

impl PeakMemory {
    pub(crate) fn watch(pid: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let watcher = std::thread::spawn(move || {
            let mut peak = 0;
            while !stopped.load(Ordering::Relaxed) {
                peak = anonymous_memory(pid)?.max(peak);
                std::thread::sleep(SAMPLE_EVERY);
            }
            Ok(peak)
        });
        Self { stop, watcher }
    }

    /// The most that was seen, in bytes.
    pub(crate) fn peak(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.watcher.join().map_err(|_| anyhow::anyhow!("the watcher of a process's memory panicked"))?
    }
}
