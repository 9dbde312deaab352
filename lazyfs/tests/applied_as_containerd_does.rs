//! A tar's entries are applied as containerd's overlay snapshotter applies them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

use shoal_lazyfs::TarError;
use shoal_lazyfs::build::{BuildError, BuildSink, IndexBuilder};
use shoal_lazyfs::tree::{IMPLIED_META, Kind, Node, Tree};
use shoal_proto::Digest;
use tar::{EntryType, Header};

struct Nothing;

impl BuildSink for Nothing {
    fn tar(&mut self, _bytes: &[u8]) -> std::io::Result<()> {
        Ok(())
    }

    fn window(&mut self, _compressed: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

/// One entry: type, raw name, link target, content.
type Item<'a> = (EntryType, &'a str, &'a str, &'a str);

const FILE: EntryType = EntryType::Regular;
const DIR: EntryType = EntryType::Directory;
const LINK: EntryType = EntryType::Link;
const SYMLINK: EntryType = EntryType::Symlink;

/// Names are written as they are, which a careful library would refuse to do. Modes count up from 0o600.
fn tar(items: &[Item<'_>]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (number, (kind, name, target, content)) in items.iter().enumerate() {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_entry_type(*kind);
        header.set_size(content.len() as u64);
        header.set_mode(0o600 + number as u32);
        header.set_uid(number as u64);
        header.set_gid(0);
        header.set_mtime(1000 + number as u64);
        header.set_cksum();
        tar.extend_from_slice(header.as_bytes());
        tar.extend_from_slice(content.as_bytes());
        tar.resize(tar.len().next_multiple_of(512), 0);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

fn build(bytes: &[u8]) -> Result<Tree, TarError> {
    let mut builder =
        IndexBuilder::new(Digest::sha256([0; 32]), bytes.len() as u64, 1 << 20, Nothing).unwrap();
    match builder.push(bytes).and_then(|()| builder.finish()) {
        Ok(built) => Ok(built.index.tree),
        Err(BuildError::Tar(error)) => Err(error),
        Err(other) => panic!("{other}"),
    }
}

fn tree(items: &[Item<'_>]) -> Tree {
    build(&tar(items)).unwrap()
}

fn refused(items: &[Item<'_>]) -> String {
    build(&tar(items)).unwrap_err().to_string()
}

fn find<'a>(tree: &'a Tree, path: &str) -> Option<&'a Node> {
    let mut at = tree.root();
    for part in path.split('/') {
        at = tree.lookup(at, part.as_bytes())?;
    }
    tree.node(at)
}

fn paths(tree: &Tree) -> Vec<String> {
    let mut paths = Vec::new();
    let mut todo = vec![(String::new(), tree.root())];
    while let Some((path, dir)) = todo.pop() {
        for (name, node) in tree.entries(dir) {
            let path = format!("{path}/{}", String::from_utf8_lossy(name));
            todo.push((path.clone(), node));
            paths.push(path);
        }
    }
    paths.sort();
    paths
}

#[test]
fn the_last_of_several_entries_counts() {
    let tree = tree(&[(FILE, "a", "", "one"), (FILE, "a", "", "second")]);
    let node = find(&tree, "a").unwrap();
    assert!(matches!(node.kind, Kind::File { size: 6, .. }));
    assert_eq!((node.meta.mode, node.meta.uid, node.meta.mtime), (0o601, 1, 1001));
    assert_eq!(tree.len(), 2, "the first is gone");
}

#[test]
fn a_folder_again_keeps_what_it_holds() {
    let tree = tree(&[(DIR, "d/", "", ""), (FILE, "d/f", "", ""), (DIR, "d", "", "")]);
    assert_eq!(paths(&tree), ["/d", "/d/f"]);
    assert_eq!(find(&tree, "d").unwrap().meta.mode, 0o602);
}

#[test]
fn a_file_replaces_a_folder_and_a_folder_a_file() {
    let files = tree(&[(FILE, "d/f/g", "", ""), (FILE, "d", "", "")]);
    assert_eq!(paths(&files), ["/d"]);
    let dirs = tree(&[(FILE, "d", "", ""), (DIR, "d", "", "")]);
    assert!(matches!(find(&dirs, "d").unwrap().kind, Kind::Dir { .. }));
}

#[test]
fn folders_that_the_tar_omits_are_marked() {
    let tree =
        tree(&[(FILE, "a/b/f", "", ""), (DIR, "c", "", ""), (FILE, "d/f", "", ""), (DIR, "d", "", "")]);
    let implied = |path| matches!(find(&tree, path).unwrap().kind, Kind::Dir { implied: true, .. });
    assert!(implied("a") && implied("a/b"));
    assert!(!implied("c") && !implied("d"));
    assert_eq!(find(&tree, "a").unwrap().meta, IMPLIED_META);
}

#[test]
fn whiteouts_and_opaque_folders_are_those_of_overlayfs() {
    let tree = tree(&[
        (FILE, "a/.wh.gone", "", ""),
        (FILE, "b/.wh..wh..opq", "", ""),
        (FILE, "b/new", "", ""),
        (FILE, ".wh.top", "", ""),
        (FILE, ".wh.top2", "", ""),
        (FILE, "top2", "", "content"),
    ]);
    assert_eq!(paths(&tree), ["/a", "/a/gone", "/b", "/b/new", "/top", "/top2"]);
    assert!(matches!(find(&tree, "a/gone").unwrap().kind, Kind::Char { major: 0, minor: 0 }));
    assert!(matches!(find(&tree, "b").unwrap().kind, Kind::Dir { opaque: true, .. }));
    assert!(matches!(find(&tree, "a").unwrap().kind, Kind::Dir { opaque: false, .. }));
    assert!(matches!(find(&tree, "top2").unwrap().kind, Kind::File { size: 7, .. }));
}

#[test]
fn whiteouts_that_containerd_cannot_make_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "a/.wh."] {
        assert!(refused(&[(FILE, name, "", "")]).contains("whiteout"), "{name}");
    }
    assert!(refused(&[(FILE, "a", "", ""), (FILE, ".wh.a", "", "")]).contains("whiteout"));
}

#[test]
fn paths_never_leave_the_root() {
    let tree = tree(&[
        (FILE, "../../etc/a", "", ""),
        (FILE, "/abs/b", "", ""),
        (FILE, "x/../../y/./c", "", ""),
        (FILE, "..", "", ""),
        (DIR, "./", "", ""),
        (DIR, "/", "", ""),
        (SYMLINK, "up", "../../..", ""),
        (FILE, "up/d", "", ""),
    ]);
    assert_eq!(paths(&tree), ["/abs", "/abs/b", "/d", "/etc", "/etc/a", "/up", "/y", "/y/c"]);
}

#[test]
fn paths_follow_links_of_the_same_layer() {
    let tree = tree(&[
        (DIR, "usr/lib", "", ""),
        (SYMLINK, "lib", "usr/lib", ""),
        (SYMLINK, "abs", "/usr/lib", ""),
        (SYMLINK, "away", "not/there", ""),
        (FILE, "lib/a", "", ""),
        (FILE, "abs/b", "", ""),
        (FILE, "away/c", "", ""),
        (LINK, "hard", "lib/a", ""),
    ]);
    let want = ["/abs", "/away", "/hard", "/lib", "/not", "/not/there", "/not/there/c", "/usr", "/usr/lib"];
    assert_eq!(paths(&tree)[..9], want);
    assert_eq!(find(&tree, "hard").unwrap().links, 2);
    assert_eq!(find(&tree, "usr/lib/a").unwrap().links, 2);
}

#[test]
fn loops_of_links_are_refused() {
    let items = [(SYMLINK, "a", "b", ""), (SYMLINK, "b", "a", ""), (FILE, "a/f", "", "")];
    assert!(refused(&items).contains("symbolic links"));
    let growing = [(SYMLINK, "a", "a/a", ""), (FILE, "a/f", "", "")];
    assert!(refused(&growing).contains("symbolic links"));
}

#[test]
fn a_file_is_no_folder() {
    assert!(refused(&[(FILE, "a", "", ""), (FILE, "a/b", "", "")]).contains("no folder"));
}

#[test]
fn hard_links_share_a_node_and_the_last_entrys_metadata() {
    let tree = tree(&[
        (FILE, "a", "", "content"),
        (LINK, "b", "./a", ""),
        (FILE, "a", "", "other"),
        (LINK, "c", "/b", ""),
        (SYMLINK, "s", "nowhere", ""),
        (LINK, "t", "s", ""),
    ]);
    let (a, b, c) = (find(&tree, "a").unwrap(), find(&tree, "b").unwrap(), find(&tree, "c").unwrap());
    assert_eq!((a.links, b.links, c.links), (1, 2, 2));
    assert_eq!(b, c);
    assert_eq!(b.meta.mode, 0o603);
    assert!(matches!(b.kind, Kind::File { size: 7, .. }));
    let link = find(&tree, "t").unwrap();
    assert!(matches!(link.kind, Kind::Symlink { .. }));
    assert_eq!((link.links, link.meta.mode), (2, 0o777));
}

#[test]
fn hard_links_to_nothing_or_to_folders_are_refused() {
    assert!(refused(&[(LINK, "a", "b", "")]).contains("hard link"));
    assert!(refused(&[(FILE, "a", "", ""), (LINK, "a", "a", "")]).contains("hard link"), "to itself");
    assert!(refused(&[(DIR, "d", "", ""), (LINK, "a", "d", "")]).contains("folder"));
    assert!(refused(&[(LINK, "a", "/", "")]).contains("folder"));
    assert!(refused(&[(LINK, "a", "", "")]).contains("target"));
    assert!(refused(&[(SYMLINK, "a", "", "")]).contains("target"));
}

#[test]
fn types_that_containerd_does_not_know_are_refused() {
    for kind in [b'7', b'V', b'D', b'Z'] {
        assert!(refused(&[(EntryType::new(kind), "a", "", "")]).contains("type"), "{kind}");
    }
}

#[test]
fn a_link_count_of_folders_is_that_of_a_filesystem() {
    let tree = tree(&[(DIR, "a/b", "", ""), (DIR, "a/c", "", ""), (FILE, "a/f", "", "")]);
    assert_eq!(find(&tree, "a").unwrap().links, 4);
    assert_eq!(tree.node(tree.root()).unwrap().links, 3);
}

fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.append_pax_extensions(records.iter().copied()).unwrap();
    let mut bytes = builder.into_inner().unwrap();
    bytes.truncate(bytes.len() - 1024);
    [bytes, tar(&[(FILE, "a", "", "x")])].concat()
}

#[test]
fn attributes_that_containerd_would_not_set_are_dropped() {
    let tree = build(&pax(&[
        ("SCHILY.xattr.user.a", b"1"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
        ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
        ("SCHILY.xattr.unknown.b", b"2"),
    ]))
    .unwrap();
    let names: Vec<&[u8]> = find(&tree, "a").unwrap().xattrs.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, [&b"security.capability"[..], b"user.a"]);
}

#[test]
fn times_have_nanoseconds_and_owners_32_bits() {
    let tree = build(&pax(&[("mtime", b"1234567890.5"), ("uid", b"4294967294"), ("gid", b"70000")])).unwrap();
    let meta = find(&tree, "a").unwrap().meta;
    assert_eq!(
        (meta.mtime, meta.mtime_nanos, meta.uid, meta.gid),
        (1_234_567_890, 500_000_000, 4_294_967_294, 70_000)
    );
    assert!(build(&pax(&[("uid", b"4294967295")])).is_err(), "means no owner to chown");
    assert!(build(&pax(&[("uid", b"4294967296")])).is_err());
    assert!(build(&pax(&[("mtime", b"1.5x")])).is_err());
}

#[test]
fn huge_headers_are_refused_without_being_kept() {
    let huge = vec![b'x'; 3 << 20];
    assert!(build(&pax(&[("comment", &huge)])).is_err());
    assert!(build(&pax(&[("SCHILY.xattr.user.a", &huge[..100_000])])).is_err());
    assert!(build(&pax(&[("SCHILY.xattr.user.a", &huge[..60_000])])).is_ok());
    // Only said to be so long: nothing of it is there.
    for kind in [EntryType::XHeader, EntryType::XGlobalHeader, EntryType::GNULongName, EntryType::GNULongLink]
    {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(1 << 40);
        header.set_cksum();
        assert!(build(header.as_bytes()).is_err(), "{kind:?}");
    }
}

#[test]
fn more_entries_than_any_image_has_are_refused() {
    let mut header = Header::new_gnu();
    header.set_entry_type(DIR);
    header.as_old_mut().name[..1].copy_from_slice(b"d");
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.set_cksum();
    // The same folder again and again takes no place in the tree, but time.
    let many = header.as_bytes().repeat(4096);
    let size = (many.len() * 300) as u64;
    let mut builder = IndexBuilder::new(Digest::sha256([0; 32]), size, 1 << 20, Nothing).unwrap();
    let refused = (0..300).find_map(|_| builder.push(&many).err()).expect("it goes on and on");
    assert!(refused.to_string().contains("entries"), "{refused}");
}

#[test]
fn odd_names_are_refused_or_kept() {
    let long = "n".repeat(256);
    let gnu_long = |name: &[u8]| {
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_pax_extensions([("path", name)]).unwrap();
        let mut bytes = builder.into_inner().unwrap();
        bytes.truncate(bytes.len() - 1024);
        build(&[bytes, tar(&[(FILE, "a", "", "")])].concat())
    };
    assert!(gnu_long(long.as_bytes()).unwrap_err().to_string().contains("255"));
    assert!(gnu_long(b"a\0b").unwrap_err().to_string().contains("zero byte"));
    assert!(gnu_long("d/".repeat(3000).as_bytes()).is_err());
    assert!(gnu_long("d/".repeat(2000).as_bytes()).is_ok());
    assert!(gnu_long(b"\xff\xfe/\n").is_ok());
}

#[test]
fn a_tar_may_end_without_its_marker_but_not_within_an_entry() {
    let bytes = tar(&[(FILE, "a", "", "content")]);
    for len in [512 + 7, 1024, 1024 + 512, bytes.len()] {
        let cut = build(&bytes[..len]);
        assert_eq!(cut.is_ok(), len != 1024 + 512, "{len} bytes: {cut:?}");
    }
    for len in [1, 511, 512, 512 + 6] {
        assert!(matches!(build(&bytes[..len]), Err(TarError::Truncated)), "{len} bytes");
    }
    assert_eq!(build(&[]).unwrap().len(), 1, "an empty layer");
}

#[test]
fn what_follows_the_end_marker_is_not_looked_at() {
    let bytes = [tar(&[(FILE, "a", "", "")]), b"anything".repeat(1000)].concat();
    assert_eq!(paths(&build(&bytes).unwrap()), ["/a"]);
}

#[test]
fn damaged_headers_are_refused_and_nothing_panics() {
    let mut random = fastrand::Rng::with_seed(1);
    let good = [
        tar(&[
            (DIR, "d", "", ""),
            (FILE, "d/f", "", "content"),
            (LINK, "l", "d/f", ""),
            (SYMLINK, "s", "d", ""),
        ]),
        pax(&[("SCHILY.xattr.user.a", b"1"), ("mtime", b"1.5"), ("GNU.sparse.map", b"0,1"), ("size", b"1")]),
    ];
    for _ in 0..20_000 {
        let mut bytes = good[random.usize(..2)].clone();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            let any = random.u8(..);
            bytes[at] = random.choice([0, b'0', b'7', b'/', b'\n', 0x80, 0xff, any]).unwrap();
        }
        // Repaired, so that damage gets past the checksum.
        for at in (0..bytes.len()).step_by(512) {
            let block = &mut bytes[at..at + 512];
            if block[257..262] == *b"ustar" {
                block[148..156].fill(b' ');
                let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
                block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        let _ = build(&bytes);
    }
}
