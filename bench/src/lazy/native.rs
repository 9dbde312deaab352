//! Which pages of an image a container touches until it is useful, found without anything of Shoal's: it runs on a
//! filesystem of its own that reads nothing ahead, and then the page cache holds just those pages.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::containerd::{Containerd, first_line};
use super::layers::{Layers, Spans};
use super::layout::Program;
use super::node::Node;
use super::page_cache::cached;

/// Of the filesystem's file, which is sparse; no image is larger.
const SIZE: &str = "16G";

/// Runs the image that is mounted at `view`, on the node, and finds the spans that hold what it touched.
pub(super) async fn touched(
    node: &Node,
    containerd: &Containerd<'_>,
    view: &Path,
    folder: &Path,
    program: &Program,
    layers: &Layers,
) -> Result<Spans> {
    let folder = folder.join("native");
    let (disk, lower, merged) = (folder.join("disk"), folder.join("lower"), folder.join("merged"));
    for made in [&lower, &merged, &folder.join("upper"), &folder.join("work")] {
        fs::create_dir_all(made)?;
    }
    let shell = async |script: &str, words: &[&Path]| {
        let mut command = node.command("sh");
        command.args(["-euc", script, "sh"]).args(words);
        node.run(command).await
    };
    shell(
        "mkfs.ext4 -q -O ^has_journal -d \"$1\" \"$2\" \"$3\"; mount -o loop,ro \"$2\" \"$4\"",
        &[view, &disk, Path::new(SIZE), &lower],
    )
    .await?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        folder.join("upper").display(),
        folder.join("work").display()
    );
    shell("mount -t overlay -o \"$1\" overlay \"$2\"", &[Path::new(&options), &merged]).await?;
    let seen = node.seen(&lower)?;
    read_nothing_ahead(&seen)?;
    rustix::fs::sync();
    fs::write("/proc/sys/vm/drop_caches", "3").context("cannot empty the page cache")?;

    let container = first_line(containerd.unpacked(&merged, "native", program)?, "native").await?;
    let mut spans = Spans::new();
    let files = touched_files(&seen);
    containerd.kill(container).await?;
    for (path, ranges) in files? {
        for range in ranges {
            layers.add(path.strip_prefix(&seen)?, &range, &mut spans);
        }
    }
    ensure!(!spans.is_empty(), "the container touched nothing of its image");
    shell("umount \"$1\" \"$2\"", &[&merged, &lower]).await?;
    fs::remove_file(disk)?;
    Ok(spans)
}

/// Of the filesystem that is mounted there.
fn read_nothing_ahead(mounted: &Path) -> Result<()> {
    let device = fs::metadata(mounted)?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    fs::write(&setting, "0").with_context(|| format!("cannot write {setting}"))
}

/// The files of which pages are cached, and which ranges.
fn touched_files(root: &Path) -> Result<Vec<(PathBuf, Vec<std::ops::Range<u64>>)>> {
    let (mut files, mut folders) = (Vec::new(), vec![root.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()? {
            let (kind, path) = (entry.file_type()?, entry.path());
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() {
                let ranges = cached(&File::open(&path)?).context("ask which pages are cached (Linux 6.5)")?;
                if !ranges.is_empty() {
                    files.push((path, ranges));
                }
            }
        }
    }
    Ok(files)
}
