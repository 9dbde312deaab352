//! Images that are shown as folders.

use std::path::Path;
use std::time::Duration;

use tokio::process::Command;

use crate::{Process, shoal_binary};

/// `shoal mount` with these arguments, once it has mounted.
pub async fn mounted(arguments: &[&str], at: &Path, log: &Path) -> Process {
    let mut command = Command::new(shoal_binary());
    command.arg("mount").args(arguments).arg(at);
    let mut process = Process::spawn("shoal mount", command, log);
    let deadline = Process::readiness_deadline();
    while !process.output().contains("is mounted on") {
        process.may_still_become_ready(deadline, "mount");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    process
}
