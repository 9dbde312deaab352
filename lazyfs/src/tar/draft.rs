//! The tree while a tar is applied: easy to change, and turned into canonical tables at the end.

use std::collections::BTreeMap;

use crate::tree::{Entry, Extent, IMPLIED_META, Kind, Meta, Node, NodeIndex, Tree, Xattr};

/// A node's number while the tree is built.
pub(super) type Id = usize;
pub(super) const ROOT: Id = 0;

#[derive(Debug)]
pub(super) enum Draft {
    Dir(DraftDir),
    File { size: u64, extents: Box<[Extent]> },
    Symlink { target: Box<[u8]> },
    Char { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

#[derive(Debug, Default)]
pub(super) struct DraftDir {
    pub(super) names: BTreeMap<Box<[u8]>, Id>,
    pub(super) opaque: bool,
    pub(super) implied: bool,
    /// Length of its path.
    pub(super) path: usize,
}

#[derive(Debug)]
pub(super) struct DraftNode {
    pub(super) meta: Meta,
    pub(super) xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
    pub(super) draft: Draft,
}

impl DraftNode {
    /// Its metadata are set by the entry that it is for.
    pub(super) fn new(draft: Draft) -> Self {
        Self { meta: IMPLIED_META, xattrs: BTreeMap::new(), draft }
    }

    pub(super) fn implied_dir() -> Self {
        Self::new(Draft::Dir(DraftDir { implied: true, ..DraftDir::default() }))
    }
}

/// Numbers what is reachable breadth first. Sizes are bounded by the builder, so the casts lose nothing.
#[allow(clippy::cast_possible_truncation, reason = "entries and text are bounded far below 32 bits")]
pub(super) fn into_tree(mut drafts: Vec<DraftNode>) -> Tree {
    let mut tree = Tree::default();
    let mut numbers: Vec<Option<NodeIndex>> = vec![None; drafts.len()];
    // Taken in the order of their numbers: the queue of the breadth-first walk is the tree's own list.
    let mut order: Vec<(Id, NodeIndex)> = vec![(ROOT, NodeIndex(0))];
    let mut links: Vec<u32> = vec![2];
    let mut next = 0;
    while let Some(&(id, parent)) = order.get(next) {
        let own = NodeIndex(next as u32);
        next += 1;
        let Some(draft) = drafts.get_mut(id) else { break };
        let taken = std::mem::replace(draft, DraftNode::new(Draft::Fifo));
        let first = tree.entries.len() as u32;
        let kind = match taken.draft {
            Draft::Dir(dir) => {
                for (name, child) in &dir.names {
                    let is_dir = matches!(drafts.get(*child), Some(DraftNode { draft: Draft::Dir(_), .. }));
                    let number = number_of(*child, own, is_dir, &mut numbers, &mut order, &mut links);
                    if is_dir && let Some(links) = links.get_mut(own.0 as usize) {
                        *links += 1;
                    }
                    let entry = Entry {
                        name_start: tree.names.len() as u32,
                        name_len: name.len() as u8,
                        node: number,
                    };
                    tree.names.extend_from_slice(name);
                    tree.entries.push(entry);
                }
                let entries = first..tree.entries.len() as u32;
                Kind::Dir { entries, parent, opaque: dir.opaque, implied: dir.implied }
            }
            Draft::File { size, extents } => Kind::File { size, extents },
            Draft::Symlink { target } => Kind::Symlink { target },
            Draft::Char { major, minor } => Kind::Char { major, minor },
            Draft::Block { major, minor } => Kind::Block { major, minor },
            Draft::Fifo => Kind::Fifo,
        };
        let xattrs: Vec<Xattr> = taken.xattrs.into_iter().collect();
        tree.nodes.push(Node { meta: taken.meta, kind, xattrs: xattrs.into(), links: 0 });
    }
    for (node, links) in tree.nodes.iter_mut().zip(links) {
        node.links = links;
    }
    tree
}

fn number_of(
    child: Id,
    parent: NodeIndex,
    is_dir: bool,
    numbers: &mut [Option<NodeIndex>],
    order: &mut Vec<(Id, NodeIndex)>,
    links: &mut Vec<u32>,
) -> NodeIndex {
    let Some(slot) = numbers.get_mut(child) else { return parent };
    if let Some(known) = *slot {
        if let Some(links) = links.get_mut(known.0 as usize) {
            *links += 1;
        }
        return known;
    }
    #[allow(clippy::cast_possible_truncation, reason = "nodes are bounded far below 32 bits")]
    let number = NodeIndex(order.len() as u32);
    *slot = Some(number);
    order.push((child, parent));
    links.push(if is_dir { 2 } else { 1 });
    number
}
