//! Images that somebody names, in place of those made on the spot.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::rig::image::{Content, Image};

/// How skopeo writes where an image is.
const TRANSPORTS: [&str; 7] =
    ["docker://", "oci:", "dir:", "oci-archive:", "docker-archive:", "containers-storage:", "docker-daemon:"];

/// Copies the image for this machine's platform into `folder`, with skopeo and its credentials.
pub(super) fn take(reference: &str, folder: &Path) -> Result<Image> {
    let named = TRANSPORTS.iter().any(|transport| reference.starts_with(transport));
    let source = if named { reference.to_owned() } else { format!("docker://{reference}") };
    let to = format!("dir:{}", folder.to_str().context("the folder's name is not UTF-8")?);
    let mut skopeo = Command::new("skopeo");
    let copied = skopeo
        .args(["--insecure-policy", "copy", "--quiet", "--preserve-digests", &source, &to])
        .stdin(Stdio::null())
        .output()
        .context("cannot run skopeo, which fetches the image; is it installed?")?;
    ensure!(copied.status.success(), "{reference}: {}", String::from_utf8_lossy(&copied.stderr).trim());
    let manifest = std::fs::read_to_string(folder.join("manifest.json"))?;
    Image::existing("bench/given".to_owned(), "given".to_owned(), manifest, |digest| {
        Content::File(folder.join(digest.hex()))
    })
    .with_context(|| reference.to_owned())
}
