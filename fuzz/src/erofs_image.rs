//! Reads an image of EROFS as the kernel does (fs/erofs/erofs_fs.h), and by nothing that its writer uses.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use shoal_lazyfs::tree::{Extent, Kind, Node, NodeIndex, Tree};

const BLOCK: usize = 512;
const NODE_LEN: usize = 64;
const HOLE: u32 = u32::MAX;

pub(crate) struct ErofsImage<'a> {
    bytes: &'a [u8],
    root: u64,
    tar_blocks: u32,
}

struct FoundNode<'a> {
    at: usize,
    /// Of the image: the node and what lies beside it, and blocks elsewhere.
    used: Vec<Range<usize>>,
    mode: u16,
    size: u64,
    whereabouts: u32,
    layout: u16,
    xattrs: Vec<(Vec<u8>, &'a [u8])>,
    /// Behind the node and its attributes.
    beside: usize,
}

impl<'a> ErofsImage<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        let mut image = Self { bytes, root: 0, tar_blocks: 0 };
        assert_eq!(image.u32(1024), 0xe0f5_e1e2);
        assert_eq!(1 << bytes[1024 + 12], BLOCK);
        assert_eq!(image.u32(1024 + 36) as usize * BLOCK, bytes.len());
        assert_eq!(image.u32(1024 + 40), 0, "nodes are counted from the beginning");
        assert_eq!(image.u32(1024 + 80), 0x4 | 0x8);
        assert_eq!(image.u16(1024 + 86), 1);
        image.tar_blocks = image.u32(usize::from(image.u16(1024 + 88)) * 128 + 64);
        image.root = image.u16(1024 + 14).into();
        image
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.bytes[at..at + 2].try_into().unwrap())
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.bytes[at..at + 4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.bytes[at..at + 8].try_into().unwrap())
    }

    /// Panics unless the image is that of `tree`, all of it, over a tar of this size.
    pub(crate) fn assert_shows(&self, tree: &Tree, tar_size: u64) {
        assert_eq!(u64::from(self.tar_blocks), tar_size.div_ceil(BLOCK as u64));
        let mut numbers = HashMap::from([(tree.root(), self.root)]);
        // The superblock and the device's slot.
        let mut used: Vec<_> = std::iter::once(0..1024 + 128 + 128).collect();
        let mut todo = vec![(tree.root(), self.root)];
        while let Some((index, number)) = todo.pop() {
            let (node, mut found) = (tree.node(index).unwrap(), self.node(number));
            self.assert_same(node, index, &mut found);
            if let Kind::Dir { parent, .. } = node.kind {
                let content = self.content(&mut found);
                let mut names = folder(content);
                let known = |index: &NodeIndex| numbers[index];
                assert_eq!(names.remove(&b"."[..]), Some((known(&index), 2)));
                assert_eq!(names.remove(&b".."[..]), Some((known(&parent), 2)));
                assert_eq!(names.len(), tree.entries(index).len());
                for (name, child) in tree.entries(index) {
                    let (number, kind) = names[name];
                    assert_eq!(kind, type_number(&tree.node(child).unwrap().kind));
                    match numbers.get(&child) {
                        Some(&known) => assert_eq!(number, known, "a name of the same node"),
                        None => {
                            numbers.insert(child, number);
                            todo.push((child, number));
                        }
                    }
                }
            }
            used.append(&mut found.used);
        }
        assert_eq!(numbers.len(), tree.len());
        used.sort_unstable_by_key(|range| (range.start, range.end));
        for pair in used.windows(2) {
            assert!(pair[0].end <= pair[1].start, "two things in one place: {pair:?}");
        }
        assert!(used.last().unwrap().end <= self.bytes.len());
    }

    fn node(&self, number: u64) -> FoundNode<'a> {
        let at = number as usize * 32;
        let format = self.u16(at);
        assert_eq!(format & 1, 1, "a long node");
        let words = usize::from(self.u16(at + 2));
        let (xattrs_at, xattrs_len) = (at + NODE_LEN, if words == 0 { 0 } else { 12 + (words - 1) * 4 });
        let beside = xattrs_at + xattrs_len;
        FoundNode {
            at,
            used: std::iter::once(at..beside).collect(),
            mode: self.u16(at + 4),
            size: self.u64(at + 8),
            whereabouts: self.u32(at + 16),
            layout: format >> 1,
            xattrs: self.xattrs(xattrs_at..beside),
            beside,
        }
    }

    fn xattrs(&self, range: Range<usize>) -> Vec<(Vec<u8>, &'a [u8])> {
        let mut xattrs = Vec::new();
        let Some(mut at) = Some(range.start + 12).filter(|_| !range.is_empty()) else { return xattrs };
        assert_eq!(self.bytes[range.start + 4], 0, "none is shared");
        while at < range.end {
            let (name_len, value_len) = (usize::from(self.bytes[at]), usize::from(self.u16(at + 2)));
            let prefix: &[u8] = match self.bytes[at + 1] {
                1 => b"user.",
                2 => b"system.posix_acl_access",
                3 => b"system.posix_acl_default",
                4 => b"trusted.",
                6 => b"security.",
                other => panic!("no prefix has the number {other}"),
            };
            let (name_at, value_at) = (at + 4, at + 4 + name_len);
            let name = [prefix, &self.bytes[name_at..value_at]].concat();
            xattrs.push((name, &self.bytes[value_at..value_at + value_len]));
            at = (value_at + value_len).next_multiple_of(4);
        }
        assert_eq!(at, range.end);
        xattrs
    }

    /// A folder's or a link's bytes.
    fn content(&self, node: &mut FoundNode<'a>) -> &'a [u8] {
        let size = node.size as usize;
        let range = match node.layout {
            0 => node.whereabouts as usize * BLOCK..node.whereabouts as usize * BLOCK + size,
            2 => {
                // Whole blocks lie elsewhere; there are none of what lies beside its node.
                assert!(size < BLOCK && node.beside / BLOCK == (node.beside + size - 1) / BLOCK);
                node.beside..node.beside + size
            }
            other => panic!("layout {other}"),
        };
        node.used.extend((size > 0).then(|| range.clone()));
        &self.bytes[range]
    }

    fn assert_same(&self, node: &Node, index: NodeIndex, found: &mut FoundNode<'a>) {
        let at = found.at;
        let kind = match node.kind {
            Kind::Fifo => 0o010_000,
            Kind::Char { .. } => 0o020_000,
            Kind::Dir { .. } => 0o040_000,
            Kind::Block { .. } => 0o060_000,
            Kind::File { .. } => 0o100_000,
            Kind::Symlink { .. } => 0o120_000,
        };
        assert_eq!(found.mode, kind | node.meta.mode);
        assert_eq!(self.u32(at + 20), index.0 + 1);
        assert_eq!((self.u32(at + 24), self.u32(at + 28)), (node.meta.uid, node.meta.gid));
        assert_eq!((self.u64(at + 32), self.u32(at + 40)), (node.meta.mtime, node.meta.mtime_nanos));
        assert_eq!(self.u32(at + 44), node.links);
        let own = node.xattrs.iter().map(|(name, value)| (name.to_vec(), &**value));
        let opaque = matches!(node.kind, Kind::Dir { opaque: true, .. });
        let opaque = opaque.then(|| (b"trusted.overlay.opaque".to_vec(), &b"y"[..]));
        assert!(own.chain(opaque).eq(found.xattrs.iter().cloned()));
        match &node.kind {
            Kind::Dir { .. } => {}
            Kind::Symlink { target } => assert!(*self.content(found) == **target),
            Kind::File { size: 0, .. } => assert_eq!(found.size, 0),
            Kind::File { size, extents } => self.assert_same_bytes(*size, extents, found),
            Kind::Char { major, minor } | Kind::Block { major, minor } => {
                let number = found.whereabouts;
                assert_eq!(
                    ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & !0xff)),
                    (*major, *minor)
                );
            }
            Kind::Fifo => {}
        }
    }

    /// Each of the file's chunks is where its bytes lie in the tar.
    fn assert_same_bytes(&self, size: u64, extents: &[Extent], found: &mut FoundNode<'a>) {
        assert_eq!((found.size, found.layout), (size, 4));
        assert_eq!(found.whereabouts & !0x1f, 0x20);
        let len = (BLOCK as u64) << (found.whereabouts & 0x1f);
        let indexes = found.beside.next_multiple_of(8);
        found.used.push(indexes..indexes + size.div_ceil(len) as usize * 8);
        for number in 0..size.div_ceil(len) {
            let index = indexes + number as usize * 8;
            let (offset, block) = (number * len, self.u32(index + 4));
            let end = (offset + len).min(size);
            let within = |extent: &&Extent| {
                extent.len > 0 && extent.file_offset < end && offset < extent.file_offset + extent.len
            };
            let mut there = extents.iter().filter(within);
            match there.next() {
                None => assert_eq!(block, HOLE),
                Some(extent) => {
                    assert!(there.next().is_none(), "two parts in one chunk");
                    assert!(extent.file_offset <= offset && end <= extent.file_offset + extent.len);
                    assert_eq!(self.u16(index + 2), 1, "of the tar");
                    assert_eq!(
                        u64::from(block) * BLOCK as u64,
                        extent.tar_offset + (offset - extent.file_offset)
                    );
                    let blocks = (end - offset).div_ceil(BLOCK as u64);
                    assert!(u64::from(block) + blocks <= u64::from(self.tar_blocks));
                }
            }
        }
    }
}

/// Its names, each with the number of its node and the kind; in the order that the kernel searches in.
fn folder(content: &[u8]) -> BTreeMap<&[u8], (u64, u8)> {
    let mut names: Vec<(&[u8], (u64, u8))> = Vec::new();
    for block in content.chunks(BLOCK) {
        let offset =
            |slot: usize| usize::from(u16::from_le_bytes([block[slot * 12 + 8], block[slot * 12 + 9]]));
        let count = offset(0) / 12;
        assert!(count > 0 && offset(0) % 12 == 0);
        for slot in 0..count {
            // The last one ends with the block, or where zeros begin.
            let name = if slot + 1 < count {
                &block[offset(slot)..offset(slot + 1)]
            } else {
                block[offset(slot)..].split(|&byte| byte == 0).next().unwrap()
            };
            assert!((1..=255).contains(&name.len()));
            let number = u64::from_le_bytes(block[slot * 12..slot * 12 + 8].try_into().unwrap());
            names.push((name, (number, block[slot * 12 + 10])));
        }
    }
    assert!(names.is_sorted_by(|(one, _), (next, _)| one < next));
    names.into_iter().collect()
}

fn type_number(kind: &Kind) -> u8 {
    match kind {
        Kind::File { .. } => 1,
        Kind::Dir { .. } => 2,
        Kind::Char { .. } => 3,
        Kind::Block { .. } => 4,
        Kind::Fifo => 5,
        Kind::Symlink { .. } => 7,
    }
}
