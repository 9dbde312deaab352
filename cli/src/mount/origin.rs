//! Where an image that is to be mounted comes from.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use shoal_lazyfs::link::{Image, Link};
use shoal_proto::Digest;

use super::MountArguments;
use crate::fs::{AUTHORIZATION, LayoutSource, index_argument};

/// How long a daemon may take to resolve an image; it may have to ask a registry first.
const RESOLVING: Duration = Duration::from_secs(60);

pub(super) struct Origin {
    /// Lowest first.
    pub(super) layers: Vec<Digest>,
    /// What tells the process that serves it.
    pub(super) arguments: Vec<OsString>,
}

impl Origin {
    pub(super) async fn of(arguments: &MountArguments) -> anyhow::Result<Self> {
        match arguments.image.strip_prefix("oci:") {
            Some(path) => Self::in_layout(path, arguments),
            None => Self::of_node(arguments).await,
        }
    }

    fn in_layout(path: &str, arguments: &MountArguments) -> anyhow::Result<Self> {
        let (folder, tag) = folder_and_tag(path);
        let layers = LayoutSource::new(&folder).layers(tag, &arguments.platform)?;
        Ok(Self { layers, arguments: vec!["--layout".into(), folder.into()] })
    }

    async fn of_node(arguments: &MountArguments) -> anyhow::Result<Self> {
        let socket = &arguments.socket;
        ensure!(
            socket.exists(),
            "there is no daemon's socket at {}; --socket names another one, oci:FOLDER mounts from a folder",
            socket.display()
        );
        let authorization = std::env::var(AUTHORIZATION).ok();
        let link = Link::open(socket);
        let resolving =
            tokio::time::timeout(RESOLVING, link.resolve(&arguments.image, authorization.as_deref()));
        let image = resolving.await.with_context(|| {
            format!("no daemon answers at {}: is it running? --socket names another one", socket.display())
        })?;
        let Image { name, layers, .. } =
            image.with_context(|| format!("cannot mount {}", arguments.image))?;
        let mut origin = Self { layers: Vec::new(), arguments: vec!["--socket".into(), socket.into()] };
        origin.arguments.extend(["--image".into(), name.into()]);
        for layer in layers {
            match layer.index {
                Ok(index) => origin.arguments.extend(["--index".into(), index_argument(&index).into()]),
                Err(why) => bail!(
                    "{} cannot be read lazily: {why}. If no node has pulled the image, shoal pull {} lets one build what is missing",
                    layer.digest,
                    arguments.image
                ),
            }
            origin.layers.push(layer.digest);
        }
        Ok(origin)
    }
}

/// `FOLDER[:TAG]`; a folder whose own name holds a colon is found too.
fn folder_and_tag(path: &str) -> (PathBuf, Option<&str>) {
    match path.rsplit_once(':') {
        Some((folder, tag)) if !Path::new(path).exists() => (folder.into(), Some(tag)),
        _ => (path.into(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_may_have_a_tag() {
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("a:b");
        std::fs::create_dir(&odd).unwrap();
        let (plain, odd) = (folder.path().to_str().unwrap(), odd.to_str().unwrap());
        for path in [plain, odd] {
            assert_eq!(folder_and_tag(path), (path.into(), None), "{path}");
            assert_eq!(folder_and_tag(&format!("{path}:v1")), (path.into(), Some("v1")), "{path}");
        }
    }
}
