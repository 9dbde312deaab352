//! Folders, and all that can be seen of them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What can be compared of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: String,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) mtime: (i64, i64),
    pub(crate) links: u64,
    pub(crate) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) content: Vec<u8>,
    /// The first path, in order, that leads to the same node.
    pub(crate) same_as: PathBuf,
}

/// Everything below a folder, by its path.
pub(crate) fn seen(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    let mut paths = Vec::new();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            }
            paths.push(entry.path());
        }
    }
    paths.sort();
    for path in paths {
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let content = match () {
            () if kind.is_file() => fs::read(&path).unwrap(),
            () if kind.is_symlink() => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
            () if kind.is_char_device() || kind.is_block_device() => meta.rdev().to_le_bytes().to_vec(),
            () => Vec::new(),
        };
        let name = match () {
            () if kind.is_file() => "file",
            () if kind.is_dir() => "dir",
            () if kind.is_symlink() => "symlink",
            () if kind.is_char_device() => "char",
            () if kind.is_block_device() => "block",
            () if kind.is_fifo() => "fifo",
            () => "other",
        };
        let short = path.strip_prefix(root).unwrap().to_owned();
        let same_as = first.entry(meta.ino()).or_insert_with(|| short.clone()).clone();
        seen.insert(
            short,
            Seen {
                kind: name.into(),
                mode: meta.permissions().mode() & 0o7777,
                owner: (meta.uid(), meta.gid()),
                mtime: (meta.mtime(), meta.mtime_nsec()),
                links: if kind.is_dir() { 0 } else { meta.nlink() },
                xattrs: xattrs(&path),
                content,
                same_as,
            },
        );
    }
    seen
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65536];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..len].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    names
        .filter(|name| !name.starts_with(b"trusted."))
        .map(|name| {
            let mut value = vec![0; 65536];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            value.truncate(len);
            (name.to_vec(), value)
        })
        .collect()
}

/// Everything that a folder can hold.
pub(crate) fn make_folder(root: &Path) {
    let script = r#"
        set -e
        mkdir -p plain/deep/deeper empty sticky
        echo hello > plain/hello; head -c 300000 /dev/urandom > plain/deep/random; : > plain/empty
        chmod 4755 plain/hello; chmod 1777 sticky; chmod 000 plain/empty; chmod 2755 plain/deep
        ln plain/hello plain/deep/hard; ln plain/hello another-hard
        ln -s ../nowhere/else plain/dangling; ln -s /etc/passwd absolute; ln plain/dangling plain/hard-symlink
        mkfifo fifo; mknod char c 5 1; mknod block b 7 200000
        chown 12:34 plain/deep/random; chown 3000000:4000000 plain/empty; chown -h 5:6 absolute
        touch -d '2021-02-03 04:05:06.789012345' plain/deep/random; touch -d @0 plain/empty; touch -d @9000000000 plain/hello
        name=$(printf 'n%.0s' $(seq 255)); echo long > "$name"; mkdir -p "$name-d/" 2>/dev/null || true
        dir=plain; for i in 1 2 3 4 5 6; do dir=$dir/$(printf 'd%.0s' $(seq 120)); done; mkdir -p $dir; echo deep > $dir/file
        ln -s $(printf 't%.0s' $(seq 300)) long-link; ln $dir/file long-hard
        printf 'x' > "$(printf 'non-utf8-\377\376')"; printf 'x' > "$(printf 'new\nline')"; printf 'x' > ' space and "quote"'
        truncate -s 3000000 sparse; printf 'start' | dd of=sparse conv=notrunc status=none
        printf 'middle' | dd of=sparse bs=1 seek=1234567 conv=notrunc status=none
        truncate -s 1000000 hole-only
    "#;
    let status = Command::new("bash").args(["-c", script]).current_dir(root).status().unwrap();
    assert!(status.success());
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    for (path, name, value) in [
        ("plain/deep/random", "user.note", &b"a value"[..]),
        ("empty", "user.note", b"of a folder"),
        ("plain/deep/random", "security.capability", capability),
        ("another-hard", "user.binary", b"\0\xff\n=\0"),
    ] {
        rustix::fs::lsetxattr(root.join(path), name, value, rustix::fs::XattrFlags::empty()).unwrap();
    }
}

pub(crate) fn unpack(tar: &Path, root: &Path) {
    let status = Command::new("tar")
        .args(["--extract", "--preserve-permissions", "--numeric-owner", "--xattrs", "--xattrs-include=*"])
        .arg("-C")
        .arg(root)
        .arg("-f")
        .arg(tar)
        .status()
        .unwrap();
    assert!(status.success());
}

/// Short enough to be printed.
pub(crate) fn short(seen: &Seen) -> Seen {
    Seen { content: seen.content.iter().copied().take(20).collect(), ..seen.clone() }
}
