//! The node that is measured: processes that share its network and its mounts, of which the machine's own see nothing
//! and keep nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::rig::net::{Host, Network};
use crate::rig::process::{Process, plain};

/// The number of the node that has seen the images.
pub(super) const HOLDER: usize = 0;
/// The number of the node that is measured.
pub(super) const MEASURED: usize = 1;

/// Holds the namespaces open. What containerd keeps outside of its own folders is in a folder that goes with them.
const KEEP: &str = "mkdir -p /run/containerd && mount -t tmpfs tmpfs /run/containerd && exec sleep infinity";

/// The node's namespaces, which end with it.
#[derive(Debug)]
pub(super) struct Node {
    keeper: Process,
    namespace: String,
    folder: PathBuf,
}

impl Node {
    pub(super) async fn make(network: &Network, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let namespace = network.namespace(Host::Node(MEASURED));
        // Not by `ip netns exec`: that hides the control groups that containers need.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}"));
        command.args(["unshare", "--mount", "--propagation=private", "sh", "-c", KEEP]);
        let mut keeper =
            Process::spawn("the node's mounts", &namespace, command, &folder.join("mounts.log"))?;
        let mounts = format!("/proc/{}/mounts", keeper.pid());
        keeper
            .until(async |_| {
                let mounts = std::fs::read_to_string(&mounts).ok()?;
                mounts.contains("tmpfs /run/containerd ").then_some(())
            })
            .await?;
        Ok(Self { keeper, namespace, folder: folder.to_owned() })
    }

    /// A command on the node.
    pub(super) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg("--target")
            .arg(self.keeper.pid().to_string())
            .args(["--mount", "--net", "--"])
            .arg(program);
        plain(&mut command);
        command
    }

    /// Starts a process of the node; what it prints goes into a file of its name.
    pub(super) fn spawn(&self, name: &str, command: Command) -> Result<Process> {
        Process::spawn(name, &self.namespace, command, &self.folder.join(format!("{name}.log")))
    }

    /// Runs a command on the node to its end, and returns what it printed.
    pub(super) async fn run(&self, command: Command) -> Result<String> {
        let mut command = tokio::process::Command::from(command);
        let output = command.kill_on_drop(true).output().await?;
        let what = || format!("{:?}", command.as_std().get_args().skip(5).collect::<Vec<_>>());
        anyhow::ensure!(
            output.status.success(),
            "{}: {}",
            what(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A path as the node's mounts show it, for this process.
    pub(super) fn seen(&self, path: &Path) -> Result<PathBuf> {
        let root = PathBuf::from(format!("/proc/{}/root", self.keeper.pid()));
        Ok(root.join(path.strip_prefix("/").context("no absolute path")?))
    }

    /// Bytes that its link has received since it exists.
    pub(super) fn received(&self) -> Result<u64> {
        let path = format!("/proc/{}/net/dev", self.keeper.pid());
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix("eth0:"));
        let bytes = line.and_then(|line| line.split_whitespace().next()).context("the node has no link")?;
        Ok(bytes.parse()?)
    }

    /// Whose network it is.
    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }
}
