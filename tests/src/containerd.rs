use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use shoal_proto::Digest;
use tempfile::TempDir;

use crate::http::Credentials;
use crate::image::Image;
use crate::image_builder::digest;
use crate::process::Process;
use crate::program::{Finished, ProgramError, command, run};

/// Off, because they need what a test machine may lack (CNI, device mapper, other filesystems).
const DISABLED: &str = r#"[
  "io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
]"#;

/// A containerd of its own, with `ctr` as its client. Needs root.
#[derive(Debug)]
pub struct Containerd {
    // Declared first: it is stopped before its folder goes.
    _process: Process,
    dir: TempDir,
}

impl Containerd {
    pub async fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let root = dir.path().display();
        let config = format!(
            "version = 2\nroot = \"{root}/root\"\nstate = \"{root}/state\"\ndisabled_plugins = {DISABLED}\n\
             [grpc]\naddress = \"{root}/sock\"\n[ttrpc]\naddress = \"{root}/ttrpc\"\n[debug]\nlevel = \"warn\"\n"
        );
        std::fs::write(dir.path().join("config.toml"), config).unwrap();
        let mut containerd = command("containerd");
        containerd.arg("--config").arg(dir.path().join("config.toml"));
        let mut process = Process::spawn("containerd", containerd, &dir.path().join("containerd.log"));
        let deadline = Process::readiness_deadline();
        while tokio::net::UnixStream::connect(dir.path().join("sock")).await.is_err() {
            process.may_still_become_ready(deadline, "accept at its socket");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        Self { _process: process, dir }
    }

    /// Pulls through the mirror only: the registry itself is configured as a port where nobody listens.
    pub async fn pull(
        &self,
        reference: &str,
        mirror: SocketAddr,
        login: Option<&Credentials>,
    ) -> Result<Finished, ProgramError> {
        let hosts = self.hosts_dir(reference, mirror);
        let mut arguments = vec!["images".into(), "pull".into(), "--snapshotter".into(), "native".into()];
        arguments.extend(["--hosts-dir".to_owned(), hosts.display().to_string()]);
        if let Some(Credentials { user, password }) = login {
            arguments.extend(["--user".to_owned(), format!("{user}:{password}")]);
        }
        arguments.push(reference.to_owned());
        self.ctr(&arguments).await
    }

    /// Compares what containerd stored with what was pushed, byte for byte.
    pub async fn verify(&self, reference: &str, image: &Image) -> Result<(), ProgramError> {
        let listed = self.ctr(&["images", "ls", &format!("name=={reference}")]).await?.text();
        if !listed.contains(&image.digest().to_string()) {
            return Err(self.wrong(reference, format!("not listed as {}:\n{listed}", image.digest())));
        }
        for manifest in image.manifests_here() {
            self.compare(&manifest.digest, &manifest.bytes).await?;
        }
        for blob in image.here().blobs() {
            self.compare(&blob.digest, &blob.bytes).await?;
        }
        Ok(())
    }

    /// Unpacks the images of an OCI archive with the overlay snapshotter.
    pub async fn import(&self, archive: &Path) -> Result<Finished, ProgramError> {
        let archive = archive.display().to_string();
        self.ctr(&["images", "import", "--snapshotter", "overlayfs", &archive]).await
    }

    /// Mounts an unpacked image, to be read only.
    pub async fn mount(&self, reference: &str, at: &Path) -> Result<Finished, ProgramError> {
        let at = at.display().to_string();
        self.ctr(&["images", "mount", "--snapshotter", "overlayfs", reference, &at]).await
    }

    pub async fn unmount(&self, at: &Path) -> Result<Finished, ProgramError> {
        self.ctr(&["images", "unmount", &at.display().to_string()]).await
    }

    async fn compare(&self, subject: &Digest, want: &Bytes) -> Result<(), ProgramError> {
        let got = self.ctr(&["content", "get", &subject.to_string()]).await?.stdout;
        if got == *want {
            return Ok(());
        }
        let got_digest = digest(subject.algorithm(), &got);
        Err(self.wrong(&subject.to_string(), format!("stored {} bytes with {got_digest}", got.len())))
    }

    fn wrong(&self, subject: &str, problem: String) -> ProgramError {
        ProgramError::Wrong { program: "containerd".into(), subject: subject.into(), problem }
    }

    async fn ctr<A: AsRef<std::ffi::OsStr>>(&self, arguments: &[A]) -> Result<Finished, ProgramError> {
        let mut ctr = command("ctr");
        ctr.arg("--address").arg(self.dir.path().join("sock"));
        run(ctr, arguments).await
    }

    fn hosts_dir(&self, reference: &str, mirror: SocketAddr) -> PathBuf {
        let name = reference.split('/').next().unwrap();
        let hosts = self.dir.path().join("hosts");
        let folder = hosts.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        write_hosts_toml(&folder, mirror);
        hosts
    }
}

fn write_hosts_toml(folder: &Path, mirror: SocketAddr) {
    let toml = format!(
        "server = \"http://127.0.0.1:1\"\n[host.\"http://{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\n"
    );
    std::fs::write(folder.join("hosts.toml"), toml).unwrap();
}
