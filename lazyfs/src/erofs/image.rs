//! The image: all of a layer but the bytes of its files. Those stay in the tar, its second device.
//!
//! The format is the kernel's (fs/erofs/erofs_fs.h): a superblock, a slot for the device, then nodes in units of 32
//! bytes, each with what belongs to it, and then blocks of folders and links that are too large to lie there.

use std::ops::Range;

use super::chunks::{self, Chunks};
use super::folders::Folder;
use super::record::{Record, put};
use super::xattrs::Xattrs;
use super::{BLOCK, BLOCK_BITS, blocks};
use crate::chain::PlacedLayer;
use crate::tree::{IMPLIED_META, Kind, Meta, Node, NodeIndex, Tree};

const MAGIC: u32 = 0xe0f5_e1e2;
const SUPER_BLOCK: usize = 1024;
const SUPER_BLOCK_LEN: usize = 128;
/// Files in chunks; devices besides the first.
const FEATURES: u32 = 0x4 | 0x8;
const DEVICE_SLOT_LEN: usize = 128;
/// Right behind the superblock.
const DEVICE_SLOT_NUMBER: u16 = 9;
const DEVICE_SLOT: usize = DEVICE_SLOT_NUMBER as usize * DEVICE_SLOT_LEN;
const NODES: usize = (DEVICE_SLOT + DEVICE_SLOT_LEN).next_multiple_of(BLOCK);
/// A node's number is where it lies, in these.
const NODE_UNIT: usize = 32;
const NODE_LEN: usize = 64;
/// Of a node's format, beside the layout of its bytes: it has 64 bytes and not 32.
const LONG_NODE: u16 = 1;
/// Bytes of an image, which is made in memory. That of the largest layers seen, with 400,000 entries, has a third.
const MAX_IMAGE: usize = 128 << 20;
/// Of all files together: eight bytes each.
const MAX_CHUNKS: usize = 1 << 20;
/// What is not longer fits into one block wherever in a unit it begins.
const MAX_BESIDE: usize = BLOCK - NODE_UNIT;

/// What the format has no way to say.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("the name or the length of the extended attribute {0:?}")]
    Xattr(String),
    #[error("a file whose parts do not lie in blocks of {BLOCK} bytes")]
    Pieces,
    #[error("files with more than {MAX_CHUNKS} holes and parts between them")]
    Holes,
    #[error("something larger than a number of it can tell")]
    Size,
    #[error("names, links and attributes of more than {MAX_IMAGE} bytes")]
    Large,
}

/// The image of a layer in its place. Overlayfs tells images apart by their `id`.
pub fn image(placed: &PlacedLayer, id: [u8; 16]) -> Result<Vec<u8>, Unfit> {
    let tar_size = placed.layer().index().spans.tar_size();
    write(Layer { tree: placed.tree(), tar_size, placed: Some(placed) }, id)
}

/// That of a layer by itself: folders that its tar only implies have nothing from layers below.
pub fn lone_image(tree: &Tree, tar_size: u64, id: [u8; 16]) -> Result<Vec<u8>, Unfit> {
    write(Layer { tree, tar_size, placed: None }, id)
}

/// Without any files, to be tried out.
pub(super) fn empty_image() -> Vec<u8> {
    let kind = Kind::Dir { entries: 0..0, parent: NodeIndex(0), opaque: false, implied: false };
    let root = Node { meta: IMPLIED_META, kind, xattrs: Box::default(), links: 2 };
    let tree = Tree { nodes: vec![root], ..Tree::default() };
    // There is nothing in it that cannot be told.
    lone_image(&tree, 0, [0; 16]).unwrap_or_default()
}

fn write(layer: Layer<'_>, id: [u8; 16]) -> Result<Vec<u8>, Unfit> {
    let plan = Plan::new(layer)?;
    let mut image = vec![0; plan.len];
    plan.write_head(&mut image, id)?;
    for (index, (node, place)) in plan.nodes() {
        plan.write_node(&mut image, index, node, place)?;
    }
    Ok(image)
}

/// How a node's bytes lie in the image, as its format tells it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Blocks = 0,
    /// In the same block as the end of the node and its attributes.
    Beside = 2,
    Chunks = 4,
}

struct Place {
    node: usize,
    layout: Layout,
    /// A folder's names, a link's target, a file's chunks.
    content: Range<usize>,
    /// Where the next node may begin.
    end: usize,
}

/// What an image is made of.
#[derive(Clone, Copy)]
struct Layer<'a> {
    tree: &'a Tree,
    tar_size: u64,
    placed: Option<&'a PlacedLayer>,
}

impl<'a> Layer<'a> {
    fn meta(&self, index: NodeIndex, node: &'a Node) -> &'a Meta {
        self.placed.map_or(&node.meta, |placed| placed.meta(index, node))
    }

    fn xattrs(&self, index: NodeIndex, node: &'a Node) -> Result<Xattrs<'a>, Unfit> {
        Xattrs::of(self.placed.map_or(&node.xattrs, |placed| placed.xattrs(index, node)), node)
    }
}

/// Where everything lies.
struct Plan<'a> {
    layer: Layer<'a>,
    places: Vec<Place>,
    len: usize,
}

impl<'a> Plan<'a> {
    fn new(layer: Layer<'a>) -> Result<Self, Unfit> {
        let nodes = &layer.tree.nodes;
        let (mut places, mut at, mut chunks) = (Vec::with_capacity(nodes.len()), NODES, 0);
        for (number, node) in nodes.iter().enumerate() {
            let place = Place::new(layer, node_index(number), node, at)?;
            if place.layout == Layout::Chunks {
                chunks += place.content.len() / chunks::INDEX_LEN;
            }
            if chunks > MAX_CHUNKS {
                return Err(Unfit::Holes);
            }
            if place.end > MAX_IMAGE {
                return Err(Unfit::Large);
            }
            at = place.end.next_multiple_of(NODE_UNIT);
            places.push(place);
        }
        let mut len = at.next_multiple_of(BLOCK);
        for place in places.iter_mut().filter(|place| place.layout == Layout::Blocks) {
            place.content = len..len + place.content.len();
            len = place.content.end.next_multiple_of(BLOCK);
        }
        if len > MAX_IMAGE {
            return Err(Unfit::Large);
        }
        Ok(Self { layer, places, len })
    }

    fn nodes(&self) -> impl Iterator<Item = (NodeIndex, (&'a Node, &Place))> {
        let both = self.layer.tree.nodes.iter().zip(&self.places).enumerate();
        both.map(|(number, both)| (node_index(number), both))
    }

    fn write_head(&self, image: &mut [u8], id: [u8; 16]) -> Result<(), Unfit> {
        let root = u16::try_from(self.number(self.layer.tree.root())).map_err(|_| Unfit::Size)?;
        let mut head = Record::<SUPER_BLOCK_LEN>::new();
        head.u32(0, MAGIC).u8(12, BLOCK_BITS).u16(14, root).u64(16, self.places.len() as u64);
        head.u32(36, blocks(self.len as u64)?).bytes(48, &id);
        head.u32(80, FEATURES).u16(86, 1).u16(88, DEVICE_SLOT_NUMBER);
        put(image, SUPER_BLOCK, &head.0);
        let mut slot = Record::<DEVICE_SLOT_LEN>::new();
        slot.bytes(0, b"tar").u32(64, blocks(self.layer.tar_size)?);
        put(image, DEVICE_SLOT, &slot.0);
        Ok(())
    }

    fn write_node(
        &self,
        image: &mut [u8],
        index: NodeIndex,
        node: &'a Node,
        place: &Place,
    ) -> Result<(), Unfit> {
        let start = place.content.start;
        let (mut size, mut whereabouts) = (place.content.len() as u64, 0);
        if place.layout == Layout::Blocks && !place.content.is_empty() {
            whereabouts = blocks(start as u64)?;
        }
        match &node.kind {
            Kind::Dir { parent, .. } => {
                let tree = self.layer.tree;
                Folder::new(tree, index, *parent).write(image, start, tree, |index| self.number(index));
            }
            Kind::Symlink { target } => put(image, start, target),
            Kind::File { size: bytes, extents } => {
                size = *bytes;
                if place.layout == Layout::Chunks {
                    let chunks = Chunks::of(size, extents)?;
                    whereabouts = chunks.format();
                    chunks.write(image, start, extents)?;
                }
            }
            // As the kernel encodes it for its own use: `new_encode_dev`.
            Kind::Char { major, minor } | Kind::Block { major, minor } => {
                whereabouts = (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12);
            }
            Kind::Fifo => {}
        }
        let (meta, xattrs) = (self.layer.meta(index, node), self.layer.xattrs(index, node)?);
        let mut record = Record::<NODE_LEN>::new();
        record.u16(0, LONG_NODE | ((place.layout as u16) << 1)).u16(2, xattrs.words()?);
        record.u16(4, type_bits(&node.kind) | meta.mode).u64(8, size).u32(16, whereabouts);
        record.u32(20, index.0 + 1).u32(24, meta.uid).u32(28, meta.gid);
        record.u64(32, meta.mtime).u32(40, meta.mtime_nanos).u32(44, node.links);
        put(image, place.node, &record.0);
        xattrs.write(image, place.node + NODE_LEN);
        Ok(())
    }

    /// A node's number in the format: where it lies.
    fn number(&self, index: NodeIndex) -> u64 {
        let place = self.places.get(index.0 as usize);
        place.map_or(0, |place| place.node / NODE_UNIT) as u64
    }
}

impl Place {
    /// For a node that lies at `at` or somewhat behind. Where its blocks will be is found later.
    fn new(layer: Layer<'_>, index: NodeIndex, node: &Node, at: usize) -> Result<Self, Unfit> {
        let (layout, len) = match &node.kind {
            Kind::Dir { parent, .. } => beside(Folder::new(layer.tree, index, *parent).len()),
            Kind::Symlink { target } => beside(target.len()),
            Kind::File { size: size @ 1.., extents } => {
                let count = usize::try_from(Chunks::of(*size, extents)?.count).map_err(|_| Unfit::Size)?;
                (Layout::Chunks, count.min(MAX_CHUNKS + 1) * chunks::INDEX_LEN)
            }
            _ => (Layout::Blocks, 0),
        };
        let before = NODE_LEN + layer.xattrs(index, node)?.len();
        let start = match (at + before, layout) {
            (start, Layout::Chunks) => start.next_multiple_of(chunks::INDEX_LEN),
            (start, Layout::Beside) if start % BLOCK + len > BLOCK => {
                start + (BLOCK - start % BLOCK).next_multiple_of(NODE_UNIT)
            }
            (start, _) => start,
        };
        let node = if layout == Layout::Chunks { at } else { start - before };
        let end = if layout == Layout::Blocks { start } else { start + len };
        Ok(Self { node, layout, content: start..start + len, end })
    }
}

fn beside(len: usize) -> (Layout, usize) {
    (if (1..=MAX_BESIDE).contains(&len) { Layout::Beside } else { Layout::Blocks }, len)
}

fn type_bits(kind: &Kind) -> u16 {
    match kind {
        Kind::Fifo => 0o010_000,
        Kind::Char { .. } => 0o020_000,
        Kind::Dir { .. } => 0o040_000,
        Kind::Block { .. } => 0o060_000,
        Kind::File { .. } => 0o100_000,
        Kind::Symlink { .. } => 0o120_000,
    }
}

/// There are no more nodes than numbers.
fn node_index(at: usize) -> NodeIndex {
    NodeIndex(u32::try_from(at).unwrap_or(u32::MAX))
}
