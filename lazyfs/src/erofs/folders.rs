//! Folders: blocks, each of them a list of entries and then their names, in the order of names' bytes.

use super::BLOCK;
use super::record::{Record, put};
use crate::tree::{Kind, NodeIndex, Tree};

const ENTRY_LEN: usize = 12;

/// What one folder holds, and where each of its blocks ends.
pub(super) struct Folder<'a> {
    names: Vec<(&'a [u8], NodeIndex)>,
    /// Numbers of the names after each block's last one.
    ends: Vec<usize>,
    len: usize,
}

impl<'a> Folder<'a> {
    pub(super) fn new(tree: &'a Tree, dir: NodeIndex, parent: NodeIndex) -> Self {
        let mut names: Vec<_> =
            [(&b"."[..], dir), (b"..", parent)].into_iter().chain(tree.entries(dir)).collect();
        // There are names that come before the dots.
        names.sort_unstable_by_key(|(name, _)| *name);
        let (mut ends, mut used) = (Vec::new(), 0);
        for (number, (name, _)) in names.iter().enumerate() {
            let len = ENTRY_LEN + name.len();
            if used + len > BLOCK {
                ends.push(number);
                used = 0;
            }
            used += len;
        }
        let len = ends.len() * BLOCK + used;
        ends.push(names.len());
        Self { names, ends, len }
    }

    /// Of all blocks, the last one without what is not used of it.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// `number` tells a node's number in the format.
    pub(super) fn write(
        &self,
        image: &mut [u8],
        start: usize,
        tree: &Tree,
        number: impl Fn(NodeIndex) -> u64,
    ) {
        let (mut block, mut first) = (start, 0);
        for &end in &self.ends {
            let names = self.names.get(first..end).unwrap_or_default();
            let mut name_at = names.len() * ENTRY_LEN;
            for (slot, (name, index)) in names.iter().enumerate() {
                let mut entry = Record::<ENTRY_LEN>::new();
                // Less than a block's length.
                let offset = u16::try_from(name_at).unwrap_or(u16::MAX);
                let kind = tree.node(*index).map_or(0, |node| type_number(&node.kind));
                entry.u64(0, number(*index)).u16(8, offset).u8(10, kind);
                put(image, block + slot * ENTRY_LEN, &entry.0);
                put(image, block + name_at, name);
                name_at += name.len();
            }
            (block, first) = (block + BLOCK, end);
        }
    }
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
