use std::net::SocketAddr;

use serde_json::Value;
use tempfile::TempDir;

use crate::containers_config::ContainersConfig;
use crate::http::Credentials;
use crate::image::Image;
use crate::program::{Finished, ProgramError, command, run};

/// podman with storage of its own (driver vfs, which works on any filesystem). Needs root.
#[derive(Debug)]
pub struct Podman {
    dir: TempDir,
}

impl Podman {
    #[allow(clippy::new_without_default, reason = "it makes a folder, which a default value should not")]
    pub fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    /// Pulls through the mirror only: the registry itself is configured as a port where nobody listens.
    pub async fn pull(
        &self,
        reference: &str,
        mirror: SocketAddr,
        login: Option<&Credentials>,
    ) -> Result<Finished, ProgramError> {
        let config = ContainersConfig::write(self.dir.path(), reference, mirror, login);
        let mut podman = self.podman();
        podman.env("CONTAINERS_REGISTRIES_CONF", &config.registries);
        podman.arg("pull").arg("--authfile").arg(&config.auth);
        podman.arg("--signature-policy").arg(&config.policy);
        run(podman, [reference]).await
    }

    /// Compares digest, config and the layers' uncompressed digests with what was pushed.
    pub async fn verify(&self, reference: &str, image: &Image) -> Result<(), ProgramError> {
        let inspected = run(self.podman(), ["image", "inspect", reference]).await?.text();
        let inspected: Value = serde_json::from_str(&inspected).unwrap_or_default();
        let config: Value = serde_json::from_slice(&image.here().config.bytes).unwrap_or_default();
        let digests = [image.digest().to_string(), image.here().manifest.digest.to_string()];
        let problem = if !digests.iter().any(|digest| inspected[0]["Digest"] == **digest) {
            format!("digest {}", inspected[0]["Digest"])
        } else if inspected[0]["Id"] != image.here().config.digest.hex() {
            format!("image id {}", inspected[0]["Id"])
        } else if inspected[0]["RootFS"]["Layers"] != config["rootfs"]["diff_ids"] {
            format!("layers {}", inspected[0]["RootFS"])
        } else {
            return Ok(());
        };
        Err(ProgramError::Wrong { program: "podman".into(), subject: reference.into(), problem })
    }

    fn podman(&self) -> tokio::process::Command {
        let mut podman = command("podman");
        podman.arg("--root").arg(self.dir.path().join("root"));
        podman.arg("--runroot").arg(self.dir.path().join("run"));
        podman.arg("--tmpdir").arg(self.dir.path().join("tmp")).args(["--storage-driver", "vfs"]);
        podman
    }
}
