//! containerd as a kubelet uses it, with `shoal fs` as its snapshotter.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use shoal_cri::{Images, Status};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::Credentials;
use crate::detach::detach_below;
use crate::process::Process;
use crate::program::{Finished, ProgramError, command, run};

/// A containerd of its own that pulls through a mirror only.
#[derive(Debug)]
pub struct Kubelet {
    // Declared first: it is stopped before its folder goes.
    process: Process,
    images: Images,
    dir: TempDir,
}

impl Kubelet {
    /// With the snapshotter at this socket, and this mirror for all registries.
    pub async fn start(snapshotter: &Path, mirror: SocketAddr) -> Self {
        let dir = TempDir::new().unwrap();
        let config = shoal_cri::containerd_config(dir.path(), Some(snapshotter));
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let hosts = dir.path().join("hosts/_default");
        std::fs::create_dir_all(&hosts).unwrap();
        let toml = format!(
            "server = \"http://127.0.0.1:1\"\n[host.\"http://{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
        );
        std::fs::write(hosts.join("hosts.toml"), toml).unwrap();
        let (process, images) = start(dir.path()).await;
        Self { process, images, dir }
    }

    /// Ends containerd, and starts it with what it had on disk.
    pub async fn restart(&mut self) {
        self.process.stop().await;
        (self.process, self.images) = start(self.dir.path()).await;
    }

    /// PullImage, as for a pod.
    pub async fn pull(&mut self, image: &str) -> Result<(), Status> {
        self.images.pull(image, None).await
    }

    /// The same with what a pull secret holds.
    pub async fn pull_as(&mut self, image: &str, login: &Credentials) -> Result<(), Status> {
        self.images.pull(image, Some((&login.user, &login.password))).await
    }

    /// RemoveImage, and then containerd's garbage collection, to its end.
    pub async fn remove(&mut self, image: &str) {
        self.images.remove(image).await.unwrap();
        self.ctr(["content", "prune", "references"]).await.unwrap();
    }

    /// Runs a program in a new container to its end.
    pub async fn run(&self, image: &str, name: &str, program: &[&str]) -> Result<Finished, ProgramError> {
        self.ctr(RUN.iter().chain(&[image, &unique(name)]).chain(program)).await
    }

    /// Starts a program in a new container; one can talk to it.
    pub fn start_container(&self, image: &str, name: &str, program: &[&str]) -> Child {
        let mut ctr = self.command();
        ctr.args(RUN).args([image, &unique(name)]).args(program);
        ctr.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
    }

    pub async fn ctr<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Finished, ProgramError> {
        run(self.command(), arguments).await
    }

    /// The names of all snapshots.
    pub async fn snapshots(&self) -> Vec<String> {
        let listed = self.ctr(["snapshots", "--snapshotter", "shoal", "list"]).await.unwrap().text();
        listed.lines().skip(1).filter_map(|line| Some(line.split_whitespace().next()?.to_owned())).collect()
    }

    pub async fn stop(mut self) {
        self.process.stop().await;
    }

    fn command(&self) -> Command {
        let mut ctr = command("ctr");
        ctr.arg("--address").arg(self.dir.path().join("sock")).args(["--namespace", "k8s.io"]);
        ctr
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        // Before the folder is removed: a container's files are not to be looked for when nobody serves them.
        detach_below(self.dir.path());
    }
}

const RUN: &[&str] = &["run", "--snapshotter", "shoal", "--rm"];

/// runc knows containers by their names alone, whatever containerd started them, and keeps what a test left that
/// failed.
fn unique(name: &str) -> String {
    format!("{name}-{:016x}", fastrand::u64(..))
}

async fn start(dir: &Path) -> (Process, Images) {
    let mut containerd = command("containerd");
    containerd.arg("--config").arg(dir.join("config.toml"));
    let mut process = Process::spawn("containerd", containerd, &dir.join("containerd.log"));
    let deadline = Process::readiness_deadline();
    loop {
        if let Ok(images) = Images::connect(&dir.join("sock")).await {
            return (process, images);
        }
        process.may_still_become_ready(deadline, "accept at its socket");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
