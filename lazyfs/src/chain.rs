//! A layer over those below it. Folders that its tar only implies have the metadata that containerd gives them when
//! it unpacks: those of the same folder in the nearest layer below that has the path.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use shoal_proto::Digest;

use crate::span_cache::Layer;
use crate::tree::{IMPLIED_META, Kind, Meta, Node, NodeIndex, Tree, Xattr};

/// Links that the resolution of one name may follow, as containerd's does.
const MAX_FOLLOWED: usize = 255;
/// Parts of paths that are walked in the layers below for one layer: a million folders in sixty of them. Images
/// that need more were made to.
const MAX_WALKED: usize = 64 << 20;

const SET_GROUP_ID: u16 = 0o2000;

/// Mode, owner, time and attributes of a folder.
type FolderMeta = (Meta, Box<[Xattr]>);
/// What folders that a tar only implies have from the layers below.
type Inherited = HashMap<NodeIndex, FolderMeta>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the layer's folders cannot be found in the layers below with reasonable effort")]
pub struct TooMuchWork;

/// What a layer and those below it are called together (OCI image specification, "Layer ChainID"); `below` is that of the
/// layer right below, which the lowest one has none of.
pub fn chain_id(below: Option<&Digest>, diff_id: &Digest) -> Digest {
    let Some(below) = below else { return *diff_id };
    let hash = ring::digest::digest(&ring::digest::SHA256, format!("{below} {diff_id}").as_bytes());
    Digest::sha256(hash.as_ref().try_into().unwrap_or_default())
}

/// A layer in its place in an image.
#[derive(Debug)]
pub struct PlacedLayer {
    layer: Arc<Layer>,
    parent: Option<Arc<PlacedLayer>>,
    inherited: Inherited,
}

impl PlacedLayer {
    /// Over the layer `parent` and all below that; the lowest has none.
    pub fn over(parent: Option<Arc<Self>>, layer: Arc<Layer>) -> Result<Self, TooMuchWork> {
        let below: Vec<_> = std::iter::successors(parent.as_deref(), |placed| placed.parent.as_deref())
            .map(|placed| (placed.tree(), &placed.inherited))
            .collect();
        let inherited = inherit(&layer.index().tree, &below)?;
        Ok(Self { layer, parent, inherited })
    }

    pub fn layer(&self) -> &Arc<Layer> {
        &self.layer
    }

    pub fn tree(&self) -> &Tree {
        &self.layer.index().tree
    }

    pub fn meta<'a>(&'a self, index: NodeIndex, node: &'a Node) -> &'a Meta {
        self.inherited.get(&index).map_or(&node.meta, |(meta, _)| meta)
    }

    pub fn xattrs<'a>(&'a self, index: NodeIndex, node: &'a Node) -> &'a [Xattr] {
        self.inherited.get(&index).map_or(&node.xattrs, |(_, xattrs)| xattrs)
    }
}

/// Walks the folders of `tree` that lead to implied ones, and the same paths in the layers below, nearest first.
/// The root is everywhere, and containerd does not inherit its metadata.
fn inherit(tree: &Tree, below: &[(&Tree, &Inherited)]) -> Result<Inherited, TooMuchWork> {
    let leading = leading_to_implied(tree);
    let mut walk = Walk { left: MAX_WALKED };
    let mut inherited = Inherited::new();
    let roots: Vec<(usize, NodeIndex)> = (0..below.len()).map(|at| (at, NodeIndex(0))).collect();
    let mut todo = vec![(tree.root(), roots)];
    while let Some((dir, places)) = todo.pop() {
        for (name, child) in tree.entries(dir).filter(|(_, child)| leading.contains(child)) {
            let mut found = Vec::new();
            for &(at, place) in &places {
                let Some((lower, _)) = below.get(at) else { continue };
                found.extend(walk.step(lower, place, name)?.map(|place| (at, place)));
            }
            if is_implied(tree, child) {
                let nearest = found.first().and_then(|&(at, place)| Some((below.get(at)?, place)));
                let from_below =
                    nearest.and_then(|((lower, of_lower), place)| folder_meta(lower, of_lower, place));
                let meta = from_below.or_else(|| in_its_parents_group(tree, &inherited, dir));
                inherited.extend(meta.map(|meta| (child, meta)));
            }
            todo.push((child, found));
        }
    }
    Ok(inherited)
}

/// Implied folders, and the folders on the way to them.
fn leading_to_implied(tree: &Tree) -> HashSet<NodeIndex> {
    let mut leading = HashSet::new();
    for (at, node) in tree.nodes.iter().enumerate() {
        if !matches!(node.kind, Kind::Dir { implied: true, .. }) {
            continue;
        }
        let mut index = NodeIndex(u32::try_from(at).unwrap_or(u32::MAX));
        while leading.insert(index)
            && let Some(Node { kind: Kind::Dir { parent, .. }, .. }) = tree.node(index)
        {
            index = *parent;
        }
    }
    leading
}

fn is_implied(tree: &Tree, dir: NodeIndex) -> bool {
    matches!(tree.node(dir), Some(Node { kind: Kind::Dir { implied: true, .. }, .. }))
}

/// `None` if something else than a folder is there.
fn folder_meta(tree: &Tree, inherited: &Inherited, index: NodeIndex) -> Option<FolderMeta> {
    let node = tree.node(index)?;
    matches!(node.kind, Kind::Dir { .. }).then(|| match inherited.get(&index) {
        Some(meta) => meta.clone(),
        None => (node.meta, node.xattrs.clone()),
    })
}

/// What a folder gets that is made in one whose set-group-id bit is set; containerd clears its own bit.
fn in_its_parents_group(tree: &Tree, inherited: &Inherited, parent: NodeIndex) -> Option<FolderMeta> {
    let (parent, _) = folder_meta(tree, inherited, parent)?;
    (parent.mode & SET_GROUP_ID != 0).then(|| (Meta { gid: parent.gid, ..IMPLIED_META }, Box::default()))
}

struct Walk {
    left: usize,
}

impl Walk {
    /// What `name` in a folder leads to within its layer, links followed.
    fn step(&mut self, tree: &Tree, dir: NodeIndex, name: &[u8]) -> Result<Option<NodeIndex>, TooMuchWork> {
        let mut at = dir;
        let mut todo: Vec<&[u8]> = vec![name];
        let mut followed = 0;
        while let Some(part) = todo.pop() {
            self.left = self.left.checked_sub(1).ok_or(TooMuchWork)?;
            let Some(Node { kind: Kind::Dir { parent, .. }, .. }) = tree.node(at) else { return Ok(None) };
            let child = match part {
                b"" | b"." => continue,
                b".." => {
                    at = *parent;
                    continue;
                }
                name => tree.lookup(at, name),
            };
            let Some(child) = child else { return Ok(None) };
            match tree.node(child).map(|node| &node.kind) {
                Some(Kind::Symlink { target }) => {
                    followed += 1;
                    if followed > MAX_FOLLOWED {
                        return Ok(None);
                    }
                    if target.starts_with(b"/") {
                        at = tree.root();
                    }
                    todo.extend(target.split(|&byte| byte == b'/').rev());
                }
                _ => at = child,
            }
        }
        Ok(Some(at))
    }
}
