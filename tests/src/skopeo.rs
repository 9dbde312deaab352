use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use tempfile::TempDir;

use crate::containers_config::ContainersConfig;
use crate::http::Credentials;
use crate::image::Image;
use crate::program::{Finished, ProgramError, command, run};

/// `skopeo copy` into a folder in the form `dir:`, which keeps manifest and blobs byte for byte.
#[derive(Debug)]
pub struct Skopeo {
    dir: TempDir,
}

impl Skopeo {
    #[allow(clippy::new_without_default, reason = "it makes a folder, which a default value should not")]
    pub fn new() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    /// Copies through the mirror only: the registry itself is configured as a port where nobody listens.
    pub async fn pull(
        &self,
        reference: &str,
        mirror: SocketAddr,
        login: Option<&Credentials>,
    ) -> Result<Finished, ProgramError> {
        let config = ContainersConfig::write(self.dir.path(), reference, mirror, login);
        let mut skopeo = command("skopeo");
        skopeo.arg("--policy").arg(&config.policy).arg("--registries-conf").arg(&config.registries);
        skopeo.arg("copy").arg("--src-authfile").arg(&config.auth);
        let source = format!("docker://{reference}");
        let destination = format!("dir:{}", self.copy().display());
        run(skopeo, [source, destination]).await
    }

    /// Compares what was copied with what was pushed, byte for byte. From an index skopeo copies the
    /// manifest of this machine's platform.
    pub fn verify(&self, image: &Image) -> Result<(), ProgramError> {
        let platform = image.here();
        self.compare("manifest.json", &platform.manifest.bytes)?;
        platform.blobs().try_for_each(|blob| self.compare(&blob.digest.hex(), &blob.bytes))
    }

    fn compare(&self, file: &str, want: &Bytes) -> Result<(), ProgramError> {
        let problem = match std::fs::read(self.copy().join(file)) {
            Ok(got) if got == *want => return Ok(()),
            Ok(got) => format!("{} bytes that differ from the {} bytes pushed", got.len(), want.len()),
            Err(e) => e.to_string(),
        };
        Err(ProgramError::Wrong { program: "skopeo".into(), subject: file.into(), problem })
    }

    fn copy(&self) -> PathBuf {
        self.dir.path().join("copy")
    }
}
