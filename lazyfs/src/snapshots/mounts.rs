//! What containerd is to mount for a snapshot.

use std::path::{Path, PathBuf};

use super::api::Mount;

/// What makes a snapshot's files, from top to bottom.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// Where changes go, and overlayfs' own folder beside it.
    pub(super) upper: Option<(PathBuf, PathBuf)>,
    /// Nearest first.
    pub(super) lower: Vec<PathBuf>,
    pub(super) read_only: bool,
}

impl Parts {
    /// `empty` is a folder without anything: overlayfs takes no single lower one. A layer is never mounted by
    /// itself, since set-id bits and devices in it count only through overlayfs.
    pub(super) fn mounts(self, empty: &Path, is_layer: impl Fn(&Path) -> bool) -> Vec<Mount> {
        let Self { upper, mut lower, read_only } = self;
        match (upper, &*lower) {
            (Some((upper, _)), []) => vec![bind(&upper, read_only)],
            (None, [only]) if !is_layer(only) => vec![bind(only, true)],
            (None, []) => Vec::new(),
            (None, _) => {
                if lower.len() == 1 {
                    lower.push(empty.to_owned());
                }
                vec![overlay(vec!["ro".to_owned()], &lower)]
            }
            (Some((upper, work)), _) => {
                let own = [("workdir", work), ("upperdir", upper)];
                let own = own.map(|(name, path)| format!("{name}={}", path.display()));
                vec![overlay(own.into(), &lower)]
            }
        }
    }
}

fn bind(path: &Path, read_only: bool) -> Mount {
    let access = if read_only { "ro" } else { "rw" };
    Mount {
        r#type: "bind".to_owned(),
        source: path.display().to_string(),
        target: String::new(),
        options: vec![access.to_owned(), "rbind".to_owned()],
    }
}

fn overlay(mut options: Vec<String>, lower: &[PathBuf]) -> Mount {
    // Layers are no files that an index of overlayfs could name again. They are filesystems of their own, whose numbers
    // of inodes are to be told apart, and not by numbers of devices: programs take another device for another mount.
    for (parameter, option) in [("index", "index=off"), ("xino_auto", "xino=on")] {
        if Path::new("/sys/module/overlay/parameters").join(parameter).exists() {
            options.push(option.to_owned());
        }
    }
    let lower: Vec<_> = lower.iter().map(|path| path.display().to_string()).collect();
    options.push(format!("lowerdir={}", lower.join(":")));
    Mount { r#type: "overlay".to_owned(), source: "overlay".to_owned(), target: String::new(), options }
}
