//! The tree of a layer is the folder that the system's tar unpacks: names, types, modes, owners, times, attributes,
//! links, contents. Needs root, to own files as others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use shoal_lazyfs::build::{BuildSink, IndexBuilder};
use shoal_lazyfs::tree::{Kind, NodeIndex, Tree};
use shoal_proto::Digest;

struct Tar(Vec<u8>);

impl BuildSink for Tar {
    fn tar(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn window(&mut self, _compressed: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

/// What can be compared of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    kind: String,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    links: u64,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    content: Vec<u8>,
    /// The first path, in order, that leads to the same node.
    same_as: PathBuf,
}

fn unpacked(root: &Path) -> BTreeMap<PathBuf, Seen> {
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

fn indexed(tree: &Tree, tar: &[u8]) -> BTreeMap<PathBuf, Seen> {
    let mut seen = BTreeMap::new();
    let mut todo = vec![(PathBuf::new(), tree.root())];
    let mut first: BTreeMap<NodeIndex, PathBuf> = BTreeMap::new();
    while let Some((path, dir)) = todo.pop() {
        for (name, node) in tree.entries(dir) {
            let path = path.join(std::ffi::OsStr::from_bytes(name));
            if matches!(tree.node(node).unwrap().kind, Kind::Dir { .. }) {
                todo.push((path.clone(), node));
            }
            let first = first.entry(node).or_insert_with(|| path.clone());
            *first = first.clone().min(path.clone());
            assert_eq!(tree.lookup(dir, name), Some(node));
            seen.insert(path, node);
        }
    }
    seen.into_iter().map(|(path, node)| (path, see(tree, tar, node, first[&node].clone()))).collect()
}

fn see(tree: &Tree, tar: &[u8], index: NodeIndex, same_as: PathBuf) -> Seen {
    let node = tree.node(index).unwrap();
    let device = |major, minor| rustix::fs::makedev(major, minor).to_le_bytes().to_vec();
    let (kind, content) = match &node.kind {
        Kind::Dir { .. } => ("dir", Vec::new()),
        Kind::File { size, extents } => {
            let mut content = vec![0; *size as usize];
            for extent in extents {
                let from = extent.tar_offset as usize..(extent.tar_offset + extent.len) as usize;
                let to = extent.file_offset as usize..(extent.file_offset + extent.len) as usize;
                content[to].copy_from_slice(&tar[from]);
            }
            ("file", content)
        }
        Kind::Symlink { target } => ("symlink", target.to_vec()),
        Kind::Char { major, minor } => ("char", device(*major, *minor)),
        Kind::Block { major, minor } => ("block", device(*major, *minor)),
        Kind::Fifo => ("fifo", Vec::new()),
    };
    Seen {
        kind: kind.into(),
        mode: node.meta.mode.into(),
        owner: (node.meta.uid, node.meta.gid),
        mtime: (node.meta.mtime as i64, node.meta.mtime_nanos.into()),
        links: if kind == "dir" { 0 } else { node.links.into() },
        xattrs: node.xattrs.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
        content,
        same_as,
    }
}

/// Everything that a folder can hold.
fn make_folder(root: &Path) {
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

fn check(format: &[&str]) {
    let made = tempfile::tempdir().unwrap();
    make_folder(made.path());
    let run = |args: &[&str], dir: &Path| {
        let tar =
            Command::new("tar").args(args).arg("-C").arg(dir).args(["-f", "-"]).args(["."]).output().unwrap();
        assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
        tar.stdout
    };
    let tar = run(&[&["--create", "--numeric-owner"], format].concat(), made.path());

    let unpack = tempfile::tempdir().unwrap();
    let file = unpack.path().join("layer.tar");
    fs::write(&file, &tar).unwrap();
    let root = unpack.path().join("root");
    fs::create_dir(&root).unwrap();
    let status = Command::new("tar")
        .args(["--extract", "--preserve-permissions", "--numeric-owner", "--xattrs", "--xattrs-include=*"])
        .arg("-C")
        .arg(&root)
        .arg("-f")
        .arg(&file)
        .status()
        .unwrap();
    assert!(status.success());

    let mut builder =
        IndexBuilder::new(Digest::sha256([0; 32]), tar.len() as u64, 1 << 20, Tar(Vec::new())).unwrap();
    for piece in tar.chunks(777) {
        builder.push(piece).unwrap();
    }
    let built = builder.finish().unwrap();
    let (got, want) = (indexed(&built.index.tree, &built.sink.0), unpacked(&root));
    assert!(want.len() > 30);
    let capable = want[Path::new("plain/deep/random")].xattrs.contains_key(&b"security.capability"[..]);
    assert_eq!(capable, format.contains(&"--xattrs"));
    for (path, want) in &want {
        let got = got.get(path).unwrap_or_else(|| panic!("{format:?}: {path:?} is missing"));
        assert!(got == want, "{format:?}: {path:?}: {:?} instead of {:?}", short(got), short(want));
    }
    assert_eq!(got.len(), want.len());
}

fn short(seen: &Seen) -> Seen {
    Seen { content: seen.content.iter().copied().take(20).collect(), ..seen.clone() }
}

#[test]
fn gnu_format_without_attributes() {
    check(&["--format=gnu"]);
}

#[test]
fn pax_format_with_attributes() {
    check(&["--format=pax", "--xattrs", "--xattrs-include=*"]);
}

#[test]
fn sparse_files_of_every_format() {
    check(&["--format=gnu", "--sparse"]);
    for version in ["0.0", "0.1", "1.0"] {
        check(&[
            "--format=pax",
            "--xattrs",
            "--xattrs-include=*",
            "--sparse",
            &format!("--sparse-version={version}"),
        ]);
    }
}
