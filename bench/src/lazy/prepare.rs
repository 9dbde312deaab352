//! Makes images of Debian's packages, once: they are kept under a name that says what they hold.

use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use serde_json::json;
use shoal_proto::{Digest, host_architecture};
use tokio::process::Command;

use super::layout;
use super::needs;
use super::recipe::{ImageName, Recipe, SUITE};
use crate::rig::image::{Image, Layer, digest, digest_of};

const INSTALL: &str = include_str!("install.sh");
/// Enough of a digest to tell recipes apart.
const KEY_LEN: usize = 12;
/// Mounts and processes of these go with the process, however it ends.
const APART: [&str; 5] = ["--mount", "--pid", "--fork", "--kill-child", "--propagation=private"];

/// The folder where images are kept.
#[derive(Debug)]
pub(super) struct Kept<'a> {
    pub folder: &'a Path,
    pub step: &'a ProgressBar,
}

/// A layer that was made, and its tar's digest.
struct Made {
    layer: Layer,
    diff_id: Digest,
}

/// What all images begin with.
struct Base {
    /// Unpacked.
    root: PathBuf,
    made: Made,
}

impl Kept<'_> {
    /// The layout folder of an image, made if it is not there.
    pub(super) async fn image(&self, name: ImageName) -> Result<PathBuf> {
        let recipe = name.recipe();
        let key = key(&(serde_json::to_string(&recipe)? + SUITE + INSTALL));
        let folder = self.folder.join(format!("{}-{key}", name.name()));
        if !folder.join("index.json").exists() {
            self.make(name, &recipe, &folder)
                .await
                .with_context(|| format!("cannot make the image {}", name.name()))?;
        }
        Ok(folder)
    }

    async fn make(&self, name: ImageName, recipe: &Recipe, folder: &Path) -> Result<()> {
        needs::programs(&needs::TO_MAKE_IMAGES)?;
        let base = self.base().await?;
        let work = anew(&folder.with_extension("part"))?;
        let blobs = folder.join("blobs/sha256");
        if folder.exists() {
            fs::remove_dir_all(folder)?;
        }
        fs::create_dir_all(&blobs)?;
        let script = work.join("install.sh");
        fs::write(&script, INSTALL)?;
        let mut below = vec![base.root.clone()];
        for (number, packages) in recipe.groups.iter().enumerate() {
            self.say(&format!("making {}: installing {}", name.name(), packages.join(", ")));
            let group = work.join(number.to_string());
            let lower: Vec<String> = below.iter().rev().map(|folder| folder.display().to_string()).collect();
            let mut install = Command::new("unshare");
            install.args(APART).arg("bash").arg(&script).arg(lower.join(":")).arg(&group).args(*packages);
            run(install).await?;
            below.push(group.join("upper"));
        }
        let mut made = vec![Made {
            layer: Layer { file: blobs.join(base.made.layer.digest.hex()), ..base.made.layer.clone() },
            diff_id: base.made.diff_id,
        }];
        fs::hard_link(&base.made.layer.file, blobs.join(base.made.layer.digest.hex()))?;
        for (number, upper) in below.iter().enumerate().skip(1) {
            self.say(&format!("making {}: packing layer {}", name.name(), number + 1));
            say_what_is_gone(upper, below.split_at(number).0, Path::new(""))?;
            let tar = work.join("layer.tar");
            let mut pack = Command::new("tar");
            pack.args(["--create", "--format=posix", "--numeric-owner", "--sort=name", "--xattrs"]);
            pack.args(["--xattrs-include=security.*", "--pax-option=delete=atime,delete=ctime"]);
            run({
                pack.arg("--file").arg(&tar).arg("--directory").arg(upper).arg(".");
                pack
            })
            .await?;
            made.push(compress(&tar, &blobs).await?);
        }
        let config = json!({
            "architecture": host_architecture(),
            "os": "linux",
            "config": {
                "Cmd": recipe.command,
                "User": recipe.user,
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": made.iter().map(|made| made.diff_id.to_string()).collect::<Vec<_>>(),
            },
        });
        let layers = made.into_iter().map(|made| made.layer).collect();
        layout::write(folder, &Image::configured(&name.name(), config.to_string(), layers))?;
        Ok(fs::remove_dir_all(work)?)
    }

    async fn base(&self) -> Result<Base> {
        let folder = self.folder.join(format!("base-{}", key(SUITE)));
        let done = folder.join("diff-id");
        if !done.exists() {
            self.say("making the images' base with mmdebstrap");
            let folder = anew(&folder)?;
            let (tar, root) = (folder.join("base.tar"), folder.join("root"));
            fs::create_dir(&root)?;
            let mut make = Command::new("unshare");
            make.args(APART).args(["mmdebstrap", "--quiet", "--variant=minbase"]);
            make.arg("--customize-hook=rm -f \"$1\"/etc/resolv.conf \"$1\"/etc/hostname");
            make.arg(SUITE).arg(&tar).env("TMPDIR", &folder);
            run(make).await?;
            let mut unpack = Command::new("tar");
            unpack.args(["--extract", "--preserve-permissions", "--numeric-owner", "--xattrs"]);
            unpack.args(["--xattrs-include=*", "--file"]).arg(&tar).arg("--directory").arg(&root);
            run(unpack).await?;
            let made = compress(&tar, &folder).await?;
            fs::rename(&made.layer.file, folder.join("layer"))?;
            fs::write(&done, made.diff_id.to_string())?;
        }
        let file = folder.join("layer");
        let layer = Layer { digest: digest_of(File::open(&file)?)?, size: file.metadata()?.len(), file };
        let diff_id = fs::read_to_string(&done)?.parse()?;
        Ok(Base { root: folder.join("root"), made: Made { layer, diff_id } })
    }

    fn say(&self, text: &str) {
        self.step.set_message(text.to_owned());
    }
}

fn key(text: &str) -> String {
    digest(text.as_bytes()).hex().chars().take(KEY_LEN).collect()
}

/// An empty folder.
fn anew(folder: &Path) -> Result<PathBuf> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder.to_owned())
}

/// Compresses a tar as most tools do, into a file named by its digest; the tar is gone then.
async fn compress(tar: &Path, folder: &Path) -> Result<Made> {
    let diff_id = digest_of(File::open(tar)?)?;
    let mut gzip = Command::new("gzip");
    gzip.args(["-6", "--no-name"]).arg(tar);
    run(gzip).await?;
    let packed = tar.with_extension("tar.gz");
    let digest = digest_of(File::open(&packed)?)?;
    let file = folder.join(digest.hex());
    fs::rename(&packed, &file)?;
    Ok(Made { layer: Layer { size: file.metadata()?.len(), file, digest }, diff_id })
}

/// Writes down what overlayfs keeps of removed names and replaced folders as layers do: with files `.wh.…`.
fn say_what_is_gone(upper: &Path, below: &[PathBuf], within: &Path) -> Result<()> {
    let folder = upper.join(within);
    let before = folder.metadata()?;
    for entry in fs::read_dir(&folder)?.collect::<Result<Vec<_>, _>>()? {
        let (kind, path) = (entry.file_type()?, within.join(entry.file_name()));
        if kind.is_char_device() && entry.metadata()?.rdev() == 0 {
            fs::remove_file(entry.path())?;
            let mut name = std::ffi::OsString::from(".wh.");
            name.push(entry.file_name());
            File::create(folder.join(name))?;
        } else if kind.is_dir() {
            say_what_is_gone(upper, below, &path)?;
        }
    }
    let mut flag = [0; 1];
    let opaque =
        rustix::fs::lgetxattr(&folder, "trusted.overlay.opaque", &mut flag[..]) == Ok(1) && flag == *b"y";
    // overlayfs marks all new folders.
    if opaque && below.iter().any(|below| below.join(within).is_dir()) {
        File::create(folder.join(".wh..wh..opq"))?;
    }
    let times = FileTimes::new().set_modified(before.modified()?).set_accessed(before.accessed()?);
    Ok(File::open(&folder)?.set_times(times)?)
}

/// Runs to the end; the error is what it said.
async fn run(mut command: Command) -> Result<()> {
    command.stdin(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).process_group(0);
    let what = command.as_std().get_args().next().unwrap_or_default().to_string_lossy().into_owned();
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let output = command.output().await.with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {what}: {}\n{said}", output.status);
    Ok(())
}
