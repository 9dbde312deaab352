//! What belongs to one run is called after its process, so that a later run can clear up after one that was killed.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::iproute::run;

const PREFIX: &str = "shoal-bench-";
/// Where iproute2 keeps its named namespaces.
const NAMESPACES: &str = "/run/netns";
/// Killed processes are gone within this, also those that wait for a disk.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The name of one run: `shoal-bench-`, the number of its process, and when that began, which no other process of this
/// number did.
#[derive(Clone, Debug)]
pub(crate) struct RunName(String);

impl RunName {
    /// That of this process.
    pub(crate) fn new() -> Result<Self> {
        let pid = std::process::id();
        let began = began(pid).context("cannot read when this process began")?;
        Ok(Self(format!("{PREFIX}{pid}-{began}")))
    }

    pub(crate) fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.0)
    }

    /// The folder for everything that the run writes but its report.
    pub(crate) fn folder(&self) -> PathBuf {
        std::env::temp_dir().join(&self.0)
    }
}

pub(crate) fn namespace_file(namespace: &str) -> PathBuf {
    PathBuf::from(NAMESPACES).join(namespace)
}

/// Ends what runs in a namespace, and removes it with all that is in it.
pub(crate) fn remove_namespace(namespace: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    // What was killed may still write for a moment.
    loop {
        let pids = run("ip", &["netns", "pids", namespace], "")?;
        let pids = pids.split_whitespace().filter_map(|pid| pid.parse().ok());
        let pids: Vec<u32> = pids.filter(|pid| *pid != std::process::id()).collect();
        if pids.is_empty() {
            return run("ip", &["netns", "delete", namespace], "").map(drop);
        }
        ensure!(Instant::now() < deadline, "{namespace}: {pids:?} do not end");
        for pid in pids.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Removes what runs left behind that were killed before they could clear up. Another run may be doing the same.
pub(crate) fn remove_leftovers() -> Result<()> {
    for namespace in entries(NAMESPACES.into()).filter(|name| is_left_over(name)) {
        let Err(failed) = remove_namespace(&namespace) else { continue };
        // Another run may have taken it down, and its name is gone in a moment.
        std::thread::sleep(LOOK_EVERY);
        if namespace_file(&namespace).exists() {
            return Err(failed);
        }
    }
    let temporary = std::env::temp_dir();
    for folder in entries(temporary.clone()).filter(|name| is_left_over(name)) {
        match std::fs::remove_dir_all(temporary.join(folder)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// The names in a folder; none if there is no such folder.
fn entries(folder: PathBuf) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// Whether this is the name of something whose run is over.
fn is_left_over(name: &str) -> bool {
    let run = || {
        let mut parts = name.strip_prefix(PREFIX)?.split('-');
        let (pid, start) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some((pid, start))
    };
    run().is_some_and(|(pid, start)| began(pid) != Some(start))
}

/// When a living process began, in the kernel's ticks since the machine started; `None` if there is none.
fn began(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name is in parentheses and may hold anything; behind it are the state and, as field 22, the start.
    let mut fields = stat.rsplit(") ").next()?.split(' ');
    let state = fields.next()?;
    // Killed, and nobody has asked what became of it.
    let dead = matches!(state, "Z" | "X");
    fields.nth(18)?.parse().ok().filter(|_| !dead)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn what_belongs_to_a_living_process_is_not_left_over() {
        let own = RunName::new().unwrap();
        assert!(!is_left_over(&own.0) && !is_left_over(&own.namespace("node3")));
        // A process that is no benchmark by its command line, as a test's.
        let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let name = format!("{PREFIX}{}-{}-core", other.id(), began(other.id()).unwrap());
        assert!(!is_left_over(&name));
        other.kill().unwrap();
        // Dead, and not waited for.
        while began(other.id()).is_some() {
            std::thread::yield_now();
        }
        assert!(is_left_over(&name));
        other.wait().unwrap();
        assert!(is_left_over(&name));
    }

    #[test]
    fn another_process_of_the_same_number_keeps_nothing() {
        let pid = std::process::id();
        assert!(is_left_over(&format!("{PREFIX}{pid}-1-core")));
        for foreign in ["shoal-bench-", "shoal-bench-x-1", "shoal-benchmark-1-1", "netns-1-1"] {
            assert!(!is_left_over(foreign), "{foreign}");
        }
    }
}
