//! An OCI layout folder to pull into (OCI image layout specification 1.0).

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;
use shoal_proto::Digest;
use tokio::fs::File;

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    folder: PathBuf,
}

impl Layout {
    pub(crate) fn create(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        std::fs::write(folder.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}")
            .with_context(|| format!("cannot write into {}", folder.display()))?;
        Ok(Self { folder: folder.to_owned() })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs").join(digest.algorithm().name()).join(digest.hex())
    }

    /// A file for a blob's bytes; [`Self::keep`] gives it its name once they were checked.
    pub(crate) async fn begin(&self, digest: &Digest) -> anyhow::Result<File> {
        let path = self.path(digest);
        if let Some(folder) = path.parent() {
            tokio::fs::create_dir_all(folder).await?;
        }
        let partial = path.with_extension("partial");
        File::create(&partial).await.with_context(|| format!("cannot write {}", partial.display()))
    }

    pub(crate) async fn keep(&self, digest: &Digest) -> anyhow::Result<()> {
        let path = self.path(digest);
        tokio::fs::rename(path.with_extension("partial"), &path)
            .await
            .with_context(|| format!("cannot name {}", path.display()))
    }

    /// Names the image in the folder's index.
    pub(crate) async fn finish(
        &self,
        digest: &str,
        media_type: &str,
        size: u64,
        name: &str,
    ) -> anyhow::Result<()> {
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": media_type,
                "digest": digest,
                "size": size,
                "annotations": {"org.opencontainers.image.ref.name": name},
            }],
        });
        let path = self.folder.join("index.json");
        tokio::fs::write(&path, serde_json::to_vec_pretty(&index)?)
            .await
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
