//! What a layer's folder holds, as flat tables: the form that an index stores and that the filesystem reads.
//!
//! Canonical: two trees with the same content are the same tables. Folders come in breadth-first order, names
//! within a folder in byte order, and a node is numbered where its first name comes. So a node's number depends
//! on nothing but the layer, and serves as its inode number.

use std::ops::Range;

/// Length of a name in bytes, as in Linux (NAME_MAX).
pub const MAX_NAME: usize = 255;
/// Length of a path in bytes, as in Linux (PATH_MAX, which counts the final zero).
pub const MAX_PATH: usize = 4095;
/// Entries of one layer. The largest layers seen have some 400,000; each costs about 150 bytes of memory.
pub const MAX_ENTRIES: usize = 1 << 20;
/// Bytes of all names, link targets and extended attributes of one layer.
pub const MAX_TEXT: usize = 64 << 20;

/// A node of a [`Tree`]. The root is node 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(pub u32);

/// Mode, owner and time of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Permissions, set-id and sticky bits: 12 bits, without the type.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u64,
    pub mtime_nanos: u32,
}

/// What containerd gives to a folder that no layer describes.
pub const IMPLIED_META: Meta = Meta { mode: 0o755, uid: 0, gid: 0, mtime: 0, mtime_nanos: 0 };

/// Consecutive bytes of a file that lie in the tar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub file_offset: u64,
    pub tar_offset: u64,
    pub len: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Dir {
        /// Its entries in [`Tree::entries`].
        entries: Range<u32>,
        parent: NodeIndex,
        /// Hides what lower layers hold under this name.
        opaque: bool,
        /// The tar names files in it but not the folder: its metadata are those of the layers below.
        implied: bool,
    },
    /// A file's bytes between its extents are zeros.
    File {
        size: u64,
        extents: Box<[Extent]>,
    },
    Symlink {
        target: Box<[u8]>,
    },
    /// 0/0 is a whiteout, as in overlayfs.
    Char {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Fifo,
}

/// An extended attribute: name and value.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub meta: Meta,
    pub kind: Kind,
    /// Sorted by name.
    pub xattrs: Box<[Xattr]>,
    /// Names that lead to it; for a folder 2 and one for each folder in it.
    pub links: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name_start: u32,
    pub(crate) name_len: u8,
    pub(crate) node: NodeIndex,
}

/// One layer's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    pub(crate) nodes: Vec<Node>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) names: Vec<u8>,
}

impl Tree {
    pub fn root(&self) -> NodeIndex {
        NodeIndex(0)
    }

    /// Number of nodes; their indexes are the numbers below it.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never true: there is always a root.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub fn node(&self, index: NodeIndex) -> Option<&Node> {
        self.nodes.get(index.0 as usize)
    }

    /// A folder's entries in byte order of their names; none for other nodes.
    pub fn entries(&self, dir: NodeIndex) -> impl ExactSizeIterator<Item = (&[u8], NodeIndex)> + '_ {
        self.entries_of(dir).iter().map(|entry| (self.name(entry), entry.node))
    }

    /// The entries of [`entries`](Self::entries) from number `first` on.
    pub fn entries_from(
        &self,
        dir: NodeIndex,
        first: usize,
    ) -> impl ExactSizeIterator<Item = (&[u8], NodeIndex)> + '_ {
        let entries = self.entries_of(dir).get(first..).unwrap_or_default();
        entries.iter().map(|entry| (self.name(entry), entry.node))
    }

    pub fn lookup(&self, dir: NodeIndex, name: &[u8]) -> Option<NodeIndex> {
        let entries = self.entries_of(dir);
        let at = entries.binary_search_by(|entry| self.name(entry).cmp(name)).ok()?;
        entries.get(at).map(|entry| entry.node)
    }

    fn entries_of(&self, dir: NodeIndex) -> &[Entry] {
        match self.node(dir).map(|node| &node.kind) {
            Some(Kind::Dir { entries, .. }) => {
                self.entries.get(entries.start as usize..entries.end as usize).unwrap_or_default()
            }
            _ => &[],
        }
    }

    fn name(&self, entry: &Entry) -> &[u8] {
        let start = entry.name_start as usize;
        self.names.get(start..start + usize::from(entry.name_len)).unwrap_or_default()
    }
}
