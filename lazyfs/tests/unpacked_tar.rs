//! The tree of a layer is the folder that the system's tar unpacks: names, types, modes, owners, times, attributes,
//! links, contents. Needs root, to own files as others.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

#[allow(dead_code, reason = "shared with the tests of the filesystem")]
mod folder;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use folder::{Seen, make_folder, seen, short};
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
    folder::unpack(&file, &root);

    let mut builder =
        IndexBuilder::new(Digest::sha256([0; 32]), tar.len() as u64, 1 << 20, Tar(Vec::new())).unwrap();
    for piece in tar.chunks(777) {
        builder.push(piece).unwrap();
    }
    let built = builder.finish().unwrap();
    let (got, want) = (indexed(&built.index.tree, &built.sink.0), seen(&root));
    assert!(want.len() > 30);
    let capable = want[Path::new("plain/deep/random")].xattrs.contains_key(&b"security.capability"[..]);
    assert_eq!(capable, format.contains(&"--xattrs"));
    for (path, want) in &want {
        let got = got.get(path).unwrap_or_else(|| panic!("{format:?}: {path:?} is missing"));
        assert!(got == want, "{format:?}: {path:?}: {:?} instead of {:?}", short(got), short(want));
    }
    assert_eq!(got.len(), want.len());
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
