//! A [`Tree`] in the bytes of an index: per folder its entries, each with what its name does not share with the
//! one before it, and each node where its first name comes.

use std::collections::VecDeque;

use super::codec::{DecodeError, Decoder, Encoder};
use crate::tree::{
    Entry, Extent, IMPLIED_META, Kind, MAX_ENTRIES, MAX_NAME, MAX_PATH, MAX_TEXT, Meta, Node, NodeIndex,
    Tree, Xattr,
};

/// Names and values of one node's attributes, as in Linux.
const MAX_XATTRS: usize = 64 << 10;
/// Pieces of one sparse file.
const MAX_EXTENTS: usize = 10_000;

// What a node is; folders come with two flags.
const DIR: u64 = 0; // to 3: + OPAQUE + IMPLIED
const OPAQUE: u64 = 1;
const IMPLIED: u64 = 2;
const FILE: u64 = 4;
const SPARSE: u64 = 5;
const SYMLINK: u64 = 6;
const CHAR: u64 = 7;
const BLOCK: u64 = 8;
const FIFO: u64 = 9;

/// Numbers that are written as differences to the node before.
#[derive(Default)]
struct Last {
    mtime: u64,
    tar_offset: u64,
}

pub(super) fn encode(out: &mut Encoder, tree: &Tree) {
    let mut last = Last::default();
    let Some(root) = tree.node(tree.root()) else { return };
    encode_node(out, root, &mut last);
    let mut seen = 1;
    for (number, node) in tree.nodes.iter().enumerate() {
        if !matches!(node.kind, Kind::Dir { .. }) {
            continue;
        }
        let entries = tree.entries(NodeIndex(u32::try_from(number).unwrap_or(u32::MAX)));
        out.count(entries.len());
        let mut before: &[u8] = &[];
        for (name, child) in entries {
            let shared = before.iter().zip(name).take_while(|(a, b)| a == b).count();
            out.count(shared);
            out.bytes(name.get(shared..).unwrap_or_default());
            before = name;
            if (child.0 as usize) < seen {
                out.number(u64::from(child.0));
            } else {
                out.number(0); // no name leads to the root
                seen += 1;
                if let Some(node) = tree.node(child) {
                    encode_node(out, node, &mut last);
                }
            }
        }
    }
}

fn encode_node(out: &mut Encoder, node: &Node, last: &mut Last) {
    encode_kind(out, &node.kind, last);
    if !matches!(node.kind, Kind::Dir { implied: true, .. }) {
        let meta = &node.meta;
        out.number(meta.mode.into());
        out.number(meta.uid.into());
        out.number(meta.gid.into());
        out.difference(meta.mtime, last.mtime);
        last.mtime = meta.mtime;
        out.number(meta.mtime_nanos.into());
        out.count(node.xattrs.len());
        for (name, value) in &node.xattrs {
            out.bytes(name);
            out.bytes(value);
        }
    }
}

fn encode_kind(out: &mut Encoder, kind: &Kind, last: &mut Last) {
    match kind {
        Kind::Dir { opaque, implied, .. } => {
            out.number(DIR + u64::from(*opaque) * OPAQUE + u64::from(*implied) * IMPLIED);
        }
        Kind::File { size, extents } => match &**extents {
            [] if *size == 0 => {
                out.number(FILE);
                out.number(0);
            }
            [whole] if whole.file_offset == 0 && whole.len == *size => {
                out.number(FILE);
                out.number(*size);
                out.difference(whole.tar_offset, last.tar_offset);
                last.tar_offset = whole.tar_offset.wrapping_add(whole.len);
            }
            pieces => {
                out.number(SPARSE);
                out.number(*size);
                out.count(pieces.len());
                for piece in pieces {
                    out.number(piece.file_offset);
                    out.number(piece.len);
                    out.number(piece.tar_offset);
                }
            }
        },
        Kind::Symlink { target } => {
            out.number(SYMLINK);
            out.bytes(target);
        }
        Kind::Char { major, minor } => encode_device(out, CHAR, *major, *minor),
        Kind::Block { major, minor } => encode_device(out, BLOCK, *major, *minor),
        Kind::Fifo => out.number(FIFO),
    }
}

fn encode_device(out: &mut Encoder, kind: u64, major: u32, minor: u32) {
    out.number(kind);
    out.number(major.into());
    out.number(minor.into());
}

pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Tree, DecodeError> {
    let mut decoding =
        Decoding { tree: Tree::default(), last: Last::default(), text: 0, dirs: VecDeque::new() };
    decoding.node(from, NodeIndex(0), 0)?;
    while let Some((dir, depth)) = decoding.dirs.pop_front() {
        decoding.dir(from, dir, depth)?;
    }
    if decoding.tree.nodes.first().is_some_and(|root| matches!(root.kind, Kind::Dir { .. })) {
        // It stays in memory as long as the layer is open.
        decoding.tree.nodes.shrink_to_fit();
        decoding.tree.entries.shrink_to_fit();
        decoding.tree.names.shrink_to_fit();
        Ok(decoding.tree)
    } else {
        Err(DecodeError::Invalid("roots"))
    }
}

struct Decoding {
    tree: Tree,
    last: Last,
    /// Bytes of names, targets and attributes so far.
    text: usize,
    /// Folders whose entries are still to come, with the length of their paths.
    dirs: VecDeque<(NodeIndex, usize)>,
}

impl Decoding {
    fn dir(&mut self, from: &mut Decoder<'_>, dir: NodeIndex, path: usize) -> Result<(), DecodeError> {
        let count = from.count(MAX_ENTRIES - self.tree.entries.len(), "entries")?;
        let first = number(self.tree.entries.len());
        // The nodes that these names lead to come in between; so do no other folder's entries.
        let mut before: (usize, usize) = (0, 0);
        for at in 0..count {
            let name = self.name(from, before, at == 0)?;
            let node = self.entry_node(from, dir, path + 1 + name.1)?;
            self.tree.entries.push(Entry {
                name_start: number(name.0),
                name_len: u8::try_from(name.1).map_err(|_| DecodeError::Invalid("names"))?,
                node,
            });
            before = name;
        }
        let end = number(self.tree.entries.len());
        if let Some(Node { kind: Kind::Dir { entries, .. }, .. }) = self.tree.nodes.get_mut(dir.0 as usize) {
            *entries = first..end;
        }
        Ok(())
    }

    /// Appends a name to the tree's names; returns its start and length.
    fn name(
        &mut self,
        from: &mut Decoder<'_>,
        before: (usize, usize),
        first: bool,
    ) -> Result<(usize, usize), DecodeError> {
        let shared = from.count(before.1, "shared bytes of a name")?;
        let own = from.bytes(MAX_NAME, "bytes of a name")?;
        let start = self.tree.names.len();
        self.tree.names.extend_from_within(before.0..before.0 + shared);
        self.tree.names.extend_from_slice(own);
        let len = shared + own.len();
        self.spend(len)?;
        let previous = self.tree.names.get(before.0..before.0 + before.1).unwrap_or_default();
        let name = self.tree.names.get(start..).unwrap_or_default();
        let sound = !name.is_empty()
            && len <= MAX_NAME
            && !matches!(name, b"." | b"..")
            && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
            && (first || previous < name)
            // The shortest form: what could be shared is.
            && previous.get(shared).is_none_or(|byte| own.first() != Some(byte));
        if sound { Ok((start, len)) } else { Err(DecodeError::Invalid("names")) }
    }

    fn entry_node(
        &mut self,
        from: &mut Decoder<'_>,
        dir: NodeIndex,
        path: usize,
    ) -> Result<NodeIndex, DecodeError> {
        let index = match from.narrow::<u32>()? {
            0 => return self.node(from, dir, path),
            known => NodeIndex(known),
        };
        match self.tree.nodes.get_mut(index.0 as usize) {
            None | Some(Node { kind: Kind::Dir { .. }, .. }) => Err(DecodeError::Invalid("hard links")),
            Some(node) => {
                node.links += 1;
                Ok(index)
            }
        }
    }

    /// Reads a node that comes for the first time, below `parent`.
    fn node(
        &mut self,
        from: &mut Decoder<'_>,
        parent: NodeIndex,
        path: usize,
    ) -> Result<NodeIndex, DecodeError> {
        if self.tree.nodes.len() >= MAX_ENTRIES {
            return Err(DecodeError::TooMany("nodes"));
        }
        let index = NodeIndex(number(self.tree.nodes.len()));
        let kind = self.kind(from, parent)?;
        let mut node = Node { meta: IMPLIED_META, kind, xattrs: Box::default(), links: 1 };
        if let Kind::Dir { .. } = node.kind {
            if path > MAX_PATH {
                return Err(DecodeError::Invalid("paths"));
            }
            node.links = 2;
            self.dirs.push_back((index, path));
            if index.0 > 0
                && let Some(parent) = self.tree.nodes.get_mut(parent.0 as usize)
            {
                parent.links += 1;
            }
        }
        if !matches!(node.kind, Kind::Dir { implied: true, .. }) {
            node.meta = self.meta(from)?;
            node.xattrs = self.xattrs(from)?;
        }
        self.tree.nodes.push(node);
        Ok(index)
    }

    fn meta(&mut self, from: &mut Decoder<'_>) -> Result<Meta, DecodeError> {
        let mode = from.narrow()?;
        let (uid, gid) = (from.narrow()?, from.narrow()?);
        let mtime = from.difference(self.last.mtime)?;
        self.last.mtime = mtime;
        let meta = Meta { mode, uid, gid, mtime, mtime_nanos: from.narrow()? };
        let sound = meta.mode <= 0o7777 && meta.mtime_nanos < 1_000_000_000;
        if sound { Ok(meta) } else { Err(DecodeError::Invalid("metadata")) }
    }

    fn xattrs(&mut self, from: &mut Decoder<'_>) -> Result<Box<[Xattr]>, DecodeError> {
        let count = from.count(MAX_XATTRS, "attributes")?;
        let mut xattrs: Vec<Xattr> = Vec::new();
        for _ in 0..count {
            let name = from.bytes(255, "bytes of an attribute's name")?;
            let value = from.bytes(MAX_XATTRS, "bytes of an attribute")?;
            self.spend(size_of::<Xattr>() + name.len() + value.len())?;
            let sound = !name.is_empty() && !name.contains(&0) && !name.starts_with(b"trusted.");
            if !sound || xattrs.last().is_some_and(|(before, _)| **before >= *name) {
                return Err(DecodeError::Invalid("attributes"));
            }
            xattrs.push((name.into(), value.into()));
        }
        Ok(xattrs.into())
    }

    fn kind(&mut self, from: &mut Decoder<'_>, parent: NodeIndex) -> Result<Kind, DecodeError> {
        Ok(match from.number()? {
            flags @ DIR..FILE => Kind::Dir {
                entries: 0..0,
                parent,
                opaque: flags & OPAQUE != 0,
                implied: flags & IMPLIED != 0,
            },
            FILE => self.file(from)?,
            SPARSE => self.sparse(from)?,
            SYMLINK => {
                let target = from.bytes(MAX_PATH, "bytes of a link's target")?;
                self.spend(target.len())?;
                if target.is_empty() || target.contains(&0) {
                    return Err(DecodeError::Invalid("link targets"));
                }
                Kind::Symlink { target: target.into() }
            }
            CHAR => device(from).map(|(major, minor)| Kind::Char { major, minor })?,
            BLOCK => device(from).map(|(major, minor)| Kind::Block { major, minor })?,
            FIFO => Kind::Fifo,
            _ => return Err(DecodeError::Invalid("kinds")),
        })
    }

    fn file(&mut self, from: &mut Decoder<'_>) -> Result<Kind, DecodeError> {
        let size = from.number()?;
        if size == 0 {
            return Ok(Kind::File { size, extents: Box::default() });
        }
        let tar_offset = from.difference(self.last.tar_offset)?;
        self.last.tar_offset = tar_offset.wrapping_add(size);
        Ok(Kind::File { size, extents: Box::new([Extent { file_offset: 0, tar_offset, len: size }]) })
    }

    fn sparse(&mut self, from: &mut Decoder<'_>) -> Result<Kind, DecodeError> {
        let size = from.number()?;
        let count = from.count(MAX_EXTENTS, "pieces of a sparse file")?;
        let mut extents = Vec::new();
        let mut end = 0;
        for _ in 0..count {
            let (file_offset, len, tar_offset) = (from.number()?, from.number()?, from.number()?);
            let start = file_offset;
            let next = file_offset.checked_add(len).ok_or(DecodeError::Number)?;
            if start < end || len == 0 || next > size {
                return Err(DecodeError::Invalid("pieces of sparse files"));
            }
            end = next;
            extents.push(Extent { file_offset, tar_offset, len });
        }
        self.spend(size_of_val(&*extents))?;
        // Otherwise it is no sparse file, and is written as a plain one.
        let plain = match &*extents {
            [] => size == 0,
            [one] => one.len == size,
            _ => false,
        };
        if plain {
            Err(DecodeError::Invalid("sparse files"))
        } else {
            Ok(Kind::File { size, extents: extents.into() })
        }
    }

    fn spend(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.text += bytes;
        if self.text > MAX_TEXT { Err(DecodeError::TooMany("bytes of text")) } else { Ok(()) }
    }
}

fn device(from: &mut Decoder<'_>) -> Result<(u32, u32), DecodeError> {
    let (major, minor) = (from.narrow()?, from.narrow()?);
    if major < 1 << 12 && minor < 1 << 20 { Ok((major, minor)) } else { Err(DecodeError::Invalid("devices")) }
}

/// Numbers of nodes, entries and bytes of names are bounded far below 32 bits.
fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
