//! `shoal fs` with folders of its own.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use shoal_proto::Digest;
use tempfile::TempDir;

use crate::detach::detach_below;
use crate::process::{PATIENCE, Process};
use crate::program::command;
use crate::shoal_binary;
use crate::tmpfs::Tmpfs;

#[derive(Debug)]
pub struct ShoalFs {
    process: Option<Process>,
    node: PathBuf,
    options: Vec<String>,
    systemd: Option<Systemd>,
    /// Unmounted before its folder goes.
    disk: Option<Tmpfs>,
    dir: TempDir,
}

/// What systemd is to a service with a descriptor store.
#[derive(Debug)]
struct Systemd {
    socket: UnixDatagram,
    stored: Option<OwnedFd>,
}

impl ShoalFs {
    /// Starts it on what the node with this socket has.
    pub async fn start(node: &Path, options: &[&str]) -> Self {
        let mut fs = Self::prepare(node, options);
        fs.start_again().await;
        fs
    }

    /// As a service whose mount systemd keeps while it is started again.
    pub async fn start_under_systemd(node: &Path, options: &[&str]) -> Self {
        let mut fs = Self::prepare(node, options);
        let socket = UnixDatagram::bind(fs.dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        fs.systemd = Some(Systemd { socket, stored: None });
        fs.start_again().await;
        fs
    }

    /// With so many bytes for all that it keeps.
    pub async fn start_on_disk_of(bytes: u64, node: &Path, options: &[&str]) -> Self {
        let mut fs = Self::prepare(node, options);
        fs.disk = Some(Tmpfs::mount(&fs.dir.path().join("state"), bytes));
        fs.start_again().await;
        fs
    }

    fn prepare(node: &Path, options: &[&str]) -> Self {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Self {
            process: None,
            node: node.to_owned(),
            options,
            systemd: None,
            disk: None,
            dir: TempDir::new().unwrap(),
        }
    }

    /// With the same folders as before.
    pub async fn start_again(&mut self) {
        let mut shoal = match &self.systemd {
            Some(Systemd { stored: Some(mount), .. }) => activated(mount),
            _ => command(&shoal_binary().display().to_string()),
        };
        if self.systemd.is_some() {
            shoal.env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        }
        self.arguments(&mut shoal);
        let log = self.dir.path().join("fs.log");
        let before = std::fs::read_to_string(log.with_extension("err")).unwrap_or_default().len();
        let mut process = Process::spawn("shoal fs", shoal, &log);
        let deadline = Process::readiness_deadline();
        while !process.output().get(before..).is_some_and(|said| said.contains("mount=")) {
            process.may_still_become_ready(deadline, "serve");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.process = Some(process);
        if let Some(systemd) = &mut self.systemd {
            systemd.until_ready();
        }
    }

    fn arguments(&self, shoal: &mut tokio::process::Command) {
        shoal.arg("fs").arg("--node").arg(&self.node).args(&self.options);
        shoal.arg("--state").arg(self.dir.path().join("state")).arg("--mount").arg(self.dir.path().join("m"));
        shoal.arg("--socket").arg(self.socket());
    }

    /// What comes of starting it a second time.
    pub async fn start_second(&self) -> Output {
        let mut shoal = command(&shoal_binary().display().to_string());
        self.arguments(&mut shoal);
        shoal.kill_on_drop(true);
        tokio::time::timeout(PATIENCE, shoal.output()).await.expect("it ends").unwrap()
    }

    /// All that is its own: state, logs, and the mount in `m`.
    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("snapshotter.sock")
    }

    /// The process that serves, a child of the one that keeps the mount.
    pub fn server(&self) -> Option<u32> {
        let pid = self.process.as_ref()?.pid()?;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// SIGKILL to the process that serves; returns when there is another one.
    pub async fn kill_server(&self) {
        let server = self.server().expect("something serves");
        assert!(Command::new("kill").args(["-9", &server.to_string()]).status().unwrap().success());
        let deadline = Process::readiness_deadline();
        while self.server().is_none_or(|now| now == server) {
            assert!(std::time::Instant::now() < deadline, "nothing serves");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What all its processes so far wrote.
    pub fn output(&self) -> String {
        self.process.as_ref().expect("it was started").output()
    }

    /// Where a layer is shown: those of the first image are numbered from 0, lowest first.
    pub fn layer(&self, number: usize) -> PathBuf {
        self.dir.path().join("m/l").join(number.to_string())
    }

    /// Bytes of a layer's tar that are on its disk; the tar has no zeros that could be left out.
    pub fn local_bytes(&self, layer: &Digest) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let folder = layer.to_string().replace(':', "-");
        let tar = self.dir.path().join("state/cache/layers").join(folder).join("tar");
        tar.metadata().map_or(0, |tar| 512 * tar.blocks())
    }

    /// SIGTERM; returns when it has ended.
    pub async fn stop(&mut self) {
        let status = self.process.take().expect("it was started").stop().await;
        assert!(status.success(), "{status}");
    }

    /// SIGKILL to the process that keeps the mount: the mount is dead then.
    pub async fn kill9(&mut self) {
        self.process.take().expect("it was started").kill9().await;
    }

    /// Whatever is mounted on its folders, or from them, apart from its disk.
    pub fn mounts(&self) -> Vec<String> {
        let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = self.dir.path().to_str().unwrap();
        all.lines()
            .filter(|line| line.contains(own) && !line.contains(" - tmpfs "))
            .map(str::to_owned)
            .collect()
    }

    /// Folders of snapshots that are unpacked, or written to.
    pub fn folders(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("state/s")).unwrap().count()
    }

    /// Returns once this many layers are whole on this disk, and proved to be right.
    pub async fn whole(&self, layers: usize) {
        let folder = self.dir.path().join("state/cache/layers");
        let whole = || {
            std::fs::read_dir(&folder)
                .unwrap()
                .filter(|layer| layer.as_ref().unwrap().path().join("proved").exists())
        };
        let deadline = Process::readiness_deadline();
        while whole().count() < layers {
            assert!(std::time::Instant::now() < deadline, "{} of {layers} layers are whole", whole().count());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Systemd {
    /// Takes what the service says, until it says that it is ready.
    fn until_ready(&mut self) {
        loop {
            let (mut text, mut space) = ([0; 64], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = recvmsg(
                &self.socket,
                &mut [IoSliceMut::new(&mut text)],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            );
            let len = received.unwrap().bytes;
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
                    assert!(text.starts_with(b"FDSTORE=1"));
                    self.stored = descriptors.next();
                }
            }
            if &text[..len] == b"READY=1" {
                return;
            }
        }
    }
}

/// A command that gets the mount as the first descriptor of its activation. It comes through the shell's standard
/// input, which no other program inherits that a test starts at the same time: one that did would keep the mount.
fn activated(mount: &OwnedFd) -> tokio::process::Command {
    let script = "exec 3<&0 0</dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=mount; exec \"$@\"";
    let mut shell = command("bash");
    shell.args(["-c", script, "bash"]).arg(shoal_binary()).stdin(mount.try_clone().unwrap());
    shell
}

impl Drop for ShoalFs {
    fn drop(&mut self) {
        // First, so that no file of a dead mount is looked at; it is there only if the test failed.
        self.process = None;
        self.systemd = None;
        detach_below(&self.dir.path().join("m"));
    }
}
