//! What belongs to one run is called after its process, so that a later run can clear up after one that was killed.

use std::path::PathBuf;

use anyhow::Result;
use rustix::process::{Pid, Signal, kill_process};

use super::iproute::run;

const PREFIX: &str = "shoal-bench-";
/// Where iproute2 keeps its named namespaces.
const NAMESPACES: &str = "/run/netns";

/// The name of one run: `shoal-bench-` and the number of its process.
#[derive(Clone, Debug)]
pub(crate) struct RunName(String);

impl RunName {
    pub(crate) fn new() -> Self {
        Self(format!("{PREFIX}{}", std::process::id()))
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
    for pid in run("ip", &["netns", "pids", namespace], "")?.split_whitespace() {
        let pid = pid.parse().ok().filter(|pid: &u32| *pid != std::process::id());
        if let Some(pid) = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            // It may have ended meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    run("ip", &["netns", "delete", namespace], "").map(drop)
}

/// Removes what runs left behind that were killed before they could clear up.
pub(crate) fn remove_leftovers() -> Result<()> {
    for namespace in entries(NAMESPACES.into()).filter(|name| is_left_over(name)) {
        remove_namespace(&namespace)?;
    }
    let temporary = std::env::temp_dir();
    for folder in entries(temporary.clone()).filter(|name| is_left_over(name)) {
        std::fs::remove_dir_all(temporary.join(folder))?;
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
    let number = name.strip_prefix(PREFIX).map(|rest| rest.split('-').next().unwrap_or_default());
    let Some(pid) = number.and_then(|number| number.parse::<u32>().ok()) else { return false };
    if pid == std::process::id() {
        return true;
    }
    // A process may have got the number of one that is long gone.
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let mut arguments = command.split(|byte| *byte == 0);
    !arguments.any(|argument| argument == b"bench")
}
