//! Whether two mounted images are the same.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};

use crate::rig::image::digest_of;

/// So many differences say enough.
const SHOWN: usize = 5;
/// An attribute's name or value is no longer (XATTR_SIZE_MAX).
const MAX_XATTR: usize = 64 << 10;

/// All that can be seen of one name, but for a folder's size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    kind: &'static str,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    links: u64,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// A file's digest, a link's target, a device's numbers.
    content: String,
    /// The first path, in order, that leads to the same node.
    same_as: PathBuf,
}

/// Everything below a folder, by its path.
pub(super) type Tree = BTreeMap<PathBuf, Seen>;

pub(super) fn tree(root: &Path, stop: &AtomicBool) -> Result<Tree> {
    let mut paths = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()? {
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
            paths.push(entry.path());
        }
    }
    paths.sort();
    let mut first = BTreeMap::new();
    let mut tree = Tree::new();
    for path in paths {
        ensure!(!stop.load(Ordering::Relaxed), "interrupted");
        let short = path.strip_prefix(root)?.to_owned();
        let found =
            seen(&path, &short, &mut first).with_context(|| format!("look at {}", short.display()))?;
        tree.insert(short, found);
    }
    Ok(tree)
}

fn seen(path: &Path, short: &Path, first: &mut BTreeMap<u64, PathBuf>) -> Result<Seen> {
    let meta = fs::symlink_metadata(path)?;
    let of = meta.file_type();
    let (kind, content) = match () {
        () if of.is_file() => ("file", digest_of(File::open(path)?)?.to_string()),
        () if of.is_dir() => ("folder", String::new()),
        () if of.is_symlink() => ("link", format!("{:?}", fs::read_link(path)?)),
        () if of.is_char_device() => ("character device", meta.rdev().to_string()),
        () if of.is_block_device() => ("block device", meta.rdev().to_string()),
        () if of.is_fifo() => ("fifo", String::new()),
        () => ("other", String::new()),
    };
    Ok(Seen {
        kind,
        mode: meta.mode(),
        owner: (meta.uid(), meta.gid()),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        // Of a folder filesystems count them as they like.
        links: if of.is_dir() { 0 } else { meta.nlink() },
        xattrs: xattrs(path)?,
        content,
        same_as: first.entry(meta.ino()).or_insert_with(|| short.to_owned()).clone(),
    })
}

fn xattrs(path: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; MAX_XATTR];
    let len = rustix::fs::llistxattr(path, &mut names[..])?;
    names.truncate(len);
    let names = names.split(|byte| *byte == 0);
    // Those of overlayfs itself.
    let names = names.filter(|name| !name.is_empty() && !name.starts_with(b"trusted."));
    names
        .map(|name| {
            let mut value = vec![0; MAX_XATTR];
            let len =
                rustix::fs::lgetxattr(path, OsString::from_vec(name.to_vec()).as_os_str(), &mut value[..])?;
            value.truncate(len);
            Ok((name.to_vec(), value))
        })
        .collect()
}

/// What differs, in words; nothing if the trees are the same. Times of folders count unless `timeless` says otherwise.
pub(super) fn differences(got: &Tree, want: &Tree, timeless: impl Fn(&Path) -> bool) -> Vec<String> {
    let missing = want.keys().filter(|path| !got.contains_key(*path));
    let missing = missing.map(|path| format!("{} is missing", path.display()));
    let more = got.keys().filter(|path| !want.contains_key(*path));
    let more = more.map(|path| format!("{} should not be there", path.display()));
    let other = got.iter().filter_map(|(path, got)| {
        let want = want.get(path)?;
        let mut got = got.clone();
        if got.kind == "folder" && timeless(path) {
            got.mtime = want.mtime;
        }
        (got != *want).then(|| format!("{} is {got:?} and should be {want:?}", path.display()))
    });
    missing.chain(more).chain(other).take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_difference_is_found() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let stop = AtomicBool::new(false);
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        for root in [a.path(), b.path()] {
            fs::create_dir(root.join("folder")).unwrap();
            for name in ["folder/file", "other"] {
                fs::write(root.join(name), name).unwrap();
                File::open(root.join(name)).unwrap().set_modified(time).unwrap();
            }
            File::open(root.join("folder")).unwrap().set_modified(time).unwrap();
        }
        let differences = || {
            let (got, want) = (tree(a.path(), &stop).unwrap(), tree(b.path(), &stop).unwrap());
            differences(&got, &want, |_| false)
        };
        assert_eq!(differences(), [""; 0]);
        fs::write(a.path().join("other"), "OTHER").unwrap();
        File::open(a.path().join("other")).unwrap().set_modified(time).unwrap();
        assert_eq!(differences().len(), 1, "its content");
        fs::write(a.path().join("more"), "").unwrap();
        assert_eq!(differences().len(), 2, "a name");
        File::open(a.path().join("folder"))
            .unwrap()
            .set_modified(time + std::time::Duration::from_nanos(1))
            .unwrap();
        assert_eq!(differences().len(), 3, "a time");
    }
}
