//! containerd on the measured node, as a kubelet uses it: images come by the container runtime interface, containers
//! by `ctr`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use shoal_cri::Images;
use shoal_proto::Digest;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::Child;

use super::layout::Program;
use super::node::Node;
use crate::rig::members::REGISTRY;
use crate::rig::process::Process;

/// Where images are unpacked, or shown.
#[derive(Clone, Debug)]
pub(super) enum Snapshotter {
    Overlayfs,
    /// `shoal fs`, at this socket.
    Shoal(PathBuf),
}

impl Snapshotter {
    fn name(&self) -> &'static str {
        match self {
            Self::Overlayfs => "overlayfs",
            Self::Shoal(_) => "shoal",
        }
    }

    fn socket(&self) -> Option<&Path> {
        match self {
            Self::Overlayfs => None,
            Self::Shoal(socket) => Some(socket),
        }
    }
}

#[derive(Debug)]
pub(super) struct Containerd<'a> {
    node: &'a Node,
    process: Process,
    images: Images,
    folder: PathBuf,
    snapshotter: Snapshotter,
}

/// A container that has said its first line.
#[derive(Debug)]
pub(super) struct Container {
    id: String,
    client: Child,
    /// When that line came.
    pub ready: Instant,
}

impl<'a> Containerd<'a> {
    /// With empty folders; images come from `source` only, a registry or a mirror.
    pub(super) async fn start(
        node: &'a Node,
        folder: &Path,
        source: &str,
        snapshotter: Snapshotter,
    ) -> Result<Self> {
        let hosts = folder.join("hosts").join(REGISTRY);
        std::fs::create_dir_all(&hosts)?;
        let host =
            format!("server = \"{source}\"\n[host.\"{source}\"]\ncapabilities = [\"pull\", \"resolve\"]\n");
        std::fs::write(hosts.join("hosts.toml"), host)?;
        let config = shoal_cri::containerd_config(folder, snapshotter.socket());
        std::fs::write(folder.join("config.toml"), config)?;
        let mut command = node.command("containerd");
        command.arg("--config").arg(folder.join("config.toml"));
        let mut process = node.spawn("containerd", command)?;
        let socket = folder.join("sock");
        let images = process.until(async |_| Images::connect(&socket).await.ok()).await?;
        Ok(Self { node, process, images, folder: folder.to_owned(), snapshotter })
    }

    /// PullImage, as for a pod.
    pub(super) async fn pull(&mut self, image: &str) -> Result<()> {
        let pulled = self.images.pull(image, None).await;
        pulled.with_context(|| format!("PullImage {image}; containerd said:\n{}", self.process.tail()))
    }

    /// Starts a container of an image that is there, and returns when it has said its first line.
    pub(super) async fn run(&self, image: &str, id: &str) -> Result<Container> {
        let mut ctr = self.ctr();
        ctr.args(["run", "--rm", "--net-host", "--snapshotter", self.snapshotter.name(), image, id]);
        first_line(ctr, id).await
    }

    /// A command that runs a program in a container on a folder.
    pub(super) fn unpacked(&self, root: &Path, id: &str, program: &Program) -> Result<Command> {
        let mut ctr = self.ctr();
        ctr.args(["run", "--rm", "--net-host", "--rootfs"]);
        for variable in program.env.iter().flatten() {
            ctr.args(["--env", variable]);
        }
        let words: Vec<&String> =
            program.entrypoint.iter().flatten().chain(program.cmd.iter().flatten()).collect();
        ensure!(!words.is_empty(), "the image's configuration names no program");
        ctr.arg(root).arg(id);
        // `ctr run` takes the user from an image only; util-linux is in nearly all of them.
        if !program.user.is_empty() {
            let (user, group) = program.user.split_once(':').unwrap_or((&program.user, &program.user));
            ctr.args(["setpriv", "--reuid", user, "--regid", group, "--clear-groups"]);
        }
        ctr.args(words);
        Ok(ctr)
    }

    /// Kills a container, and returns when nothing of it is left.
    pub(super) async fn kill(&self, mut container: Container) -> Result<()> {
        let mut kill = self.ctr();
        kill.args(["task", "kill", "--signal", "SIGKILL", &container.id]);
        let killed = self.node.run(kill).await;
        // It may have ended by itself since its first line.
        if killed.is_err() && container.client.try_wait()?.is_none() {
            killed?;
        }
        container.client.wait().await?;
        Ok(())
    }

    /// Mounts an image for reading, on the node; its top layer has this chain id.
    pub(super) async fn mount(&self, chain_id: &Digest, at: &Path) -> Result<()> {
        std::fs::create_dir_all(at)?;
        // Nobody has a lease on it, so containerd's garbage collector removes it.
        let mut view = self.ctr();
        view.args(["snapshots", "--snapshotter", self.snapshotter.name(), "view", "--target"]);
        view.arg(at).args(["view", &chain_id.to_string()]);
        // It prints the command.
        let mount = self.node.run(view).await?;
        let mut shell = self.node.command("sh");
        shell.args(["-c", &mount]);
        self.node.run(shell).await.map(drop)
    }

    pub(super) async fn unmount(&self, at: &Path) -> Result<()> {
        let mut unmount = self.node.command("umount");
        unmount.arg(at);
        self.node.run(unmount).await.map(drop)
    }

    /// The digests of all content that it holds.
    pub(super) async fn content(&self) -> Result<String> {
        let mut list = self.ctr();
        list.args(["content", "ls", "--quiet"]);
        self.node.run(list).await
    }

    pub(super) async fn stop(mut self) -> Result<()> {
        self.process.stop().await
    }

    fn ctr(&self) -> Command {
        let mut ctr = self.node.command("ctr");
        ctr.arg("--address").arg(self.folder.join("sock")).args(["--namespace", "k8s.io"]);
        ctr
    }
}

/// Starts a client that runs a container, and waits for the first line that the container prints.
pub(super) async fn first_line(client: Command, id: &str) -> Result<Container> {
    let mut client = tokio::process::Command::from(client);
    client.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut client = client.spawn().context("cannot start ctr")?;
    let stdout = client.stdout.take().context("no output")?;
    let mut lines = BufReader::new(stdout).lines();
    let line = lines.next_line().await?;
    let ready = Instant::now();
    if line.is_none() {
        let mut said = String::new();
        if let Some(mut stderr) = client.stderr.take() {
            stderr.read_to_string(&mut said).await?;
        }
        ensure!(line.is_some(), "the container {id} ended before it was useful: {}", said.trim());
    }
    // What it says later is read, too, so that it can say it.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(Container { id: id.to_owned(), client, ready })
}
