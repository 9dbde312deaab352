//! `shoal mount`: an image as a folder, read as far as somebody reads it.

mod layout;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use clap::Args;
use shoal_lazyfs::fill::{Pace, fill};
use shoal_lazyfs::fs::EMPTY;
use shoal_lazyfs::fuse::FuseMount;
use shoal_lazyfs::images::Images;
use shoal_lazyfs::overlay;
use shoal_lazyfs::span_cache::Patience;
use tokio::task::JoinHandle;

use crate::log::{self, LogFormat};
use crate::{pull, serve};
use layout::LayoutSource;

#[derive(Debug, Args)]
pub(crate) struct MountArguments {
    /// An image in an OCI layout folder: oci:FOLDER, or oci:FOLDER:TAG where there are several
    image: String,
    /// An existing folder to mount it on
    folder: PathBuf,
    /// Which image of an index, as os/architecture
    #[arg(long, default_value_t = pull::host_platform(), value_parser = pull::platform)]
    platform: String,
    /// Where to keep what was read, for the next time; by default it is dropped at the end
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Read all of it in the background, and check it as a whole
    #[arg(long)]
    eager: bool,
    #[arg(long, value_enum, default_value_t)]
    log: LogFormat,
}

pub(crate) fn run(arguments: MountArguments) -> anyhow::Result<ExitCode> {
    log::start(arguments.log);
    ensure!(rustix::process::geteuid().is_root(), "only root can mount; try sudo shoal mount");
    let folder = arguments.folder.canonicalize();
    let folder = folder.with_context(|| format!("cannot mount on {}", arguments.folder.display()))?;
    ensure!(folder.is_dir(), "{} is no folder", folder.display());
    let runtime = serve::runtime()?;
    let done = runtime.block_on(mount(&arguments, &folder));
    runtime.shutdown_timeout(serve::BLOCKING_MAY_LAST);
    done
}

async fn mount(arguments: &MountArguments, folder: &Path) -> anyhow::Result<ExitCode> {
    let (path, tag) = layout_and_tag(&arguments.image)?;
    let source = LayoutSource::new(&path);
    let layers = source.layers(tag, &arguments.platform)?;
    let scratch = tempfile::Builder::new().prefix("shoal-").tempdir().context("cannot make a folder")?;
    let cache = arguments.cache.clone().unwrap_or_else(|| scratch.path().join("cache"));
    let images = Images::open(&cache, Arc::new(source), Patience::default()).await?;
    let slots = images.add(&layers).await?;
    let below = scratch.path().join("fs");
    std::fs::create_dir(&below)?;
    let served = FuseMount::new(images.fs().clone(), &below);
    let served = served.context("cannot mount a FUSE filesystem (modprobe fuse may help)")?;
    // overlayfs takes no single folder: an empty one is below all.
    let names = slots.iter().map(|slot| slot.0.to_string());
    let lower: Vec<_> = std::iter::once(EMPTY.to_owned()).chain(names).map(|name| below.join(name)).collect();
    let mounted = overlay::mount(&lower, folder);
    // What is mounted over it holds it.
    overlay::unmount(&below)?;
    mounted?;
    crate::output::line(&format!(
        "{} is mounted on {} ({} layers); Ctrl-C or umount ends it",
        arguments.image,
        folder.display(),
        layers.len()
    ))?;
    if arguments.eager {
        tokio::spawn(fill(images.layers(&slots), Pace::EAGER));
    }
    until_unmounted(folder, tokio::task::spawn_blocking(move || served.join())).await
}

/// Waits for a signal and unmounts, or until somebody else did; then until the last reader is gone, or a second
/// signal.
async fn until_unmounted(
    folder: &Path,
    mut served: JoinHandle<std::io::Result<()>>,
) -> anyhow::Result<ExitCode> {
    tokio::select! {
        told = serve::told_to_stop() => told?,
        ended = &mut served => {
            ended??;
            return Ok(ExitCode::SUCCESS);
        }
    }
    let unused = overlay::unmount(folder).with_context(|| format!("cannot unmount {}", folder.display()))?;
    if !unused {
        tracing::warn!(
            "{} is still in use; waiting for the last reader, or a second signal",
            folder.display()
        );
    }
    tokio::select! {
        told = serve::told_to_stop() => told?,
        ended = &mut served => ended??,
    }
    Ok(ExitCode::SUCCESS)
}

/// `oci:FOLDER[:TAG]`; a folder whose own name holds a colon is found too.
fn layout_and_tag(image: &str) -> anyhow::Result<(PathBuf, Option<&str>)> {
    let Some(path) = image.strip_prefix("oci:") else {
        bail!(
            "{image}: only images in a folder can be mounted: oci:FOLDER (shoal pull --output FOLDER makes one)"
        );
    };
    match path.rsplit_once(':') {
        Some((folder, tag)) if !Path::new(path).exists() => Ok((folder.into(), Some(tag))),
        _ => Ok((path.into(), None)),
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
        for (image, path, tag) in [
            (format!("oci:{plain}"), plain, None),
            (format!("oci:{plain}:v1"), plain, Some("v1")),
            (format!("oci:{odd}"), odd, None),
            (format!("oci:{odd}:v1"), odd, Some("v1")),
        ] {
            assert_eq!(layout_and_tag(&image).unwrap(), (path.into(), tag), "{image}");
        }
        assert!(layout_and_tag("alpine").unwrap_err().to_string().contains("oci:"));
    }
}
