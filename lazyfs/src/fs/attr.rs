//! What is known of a file besides its content.

use super::Ino;
use crate::tree::{IMPLIED_META, Kind, Meta, Node};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    File,
    Folder,
    Symlink,
    Char,
    Block,
    Fifo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    pub ino: Ino,
    pub kind: FileKind,
    pub meta: Meta,
    pub links: u32,
    /// Bytes.
    pub size: u64,
    /// Bytes that are no holes.
    pub allocated: u64,
    /// Of a device: major and minor number.
    pub device: (u32, u32),
}

impl Attr {
    pub(super) fn new(ino: Ino, node: &Node, meta: &Meta) -> Self {
        let mut device = (0, 0);
        let (kind, size, allocated) = match &node.kind {
            Kind::Dir { .. } => (FileKind::Folder, 0, 0),
            Kind::File { size, extents } => {
                (FileKind::File, *size, extents.iter().map(|extent| extent.len).sum())
            }
            Kind::Symlink { target } => (FileKind::Symlink, target.len() as u64, 0),
            Kind::Char { major, minor } => {
                device = (*major, *minor);
                (FileKind::Char, 0, 0)
            }
            Kind::Block { major, minor } => {
                device = (*major, *minor);
                (FileKind::Block, 0, 0)
            }
            Kind::Fifo => (FileKind::Fifo, 0, 0),
        };
        Self { ino, kind, meta: *meta, links: node.links, size, allocated, device }
    }

    /// A layer's tar, for the kernel itself.
    pub(super) fn tar(ino: Ino, size: u64) -> Self {
        let meta = Meta { mode: 0o400, ..IMPLIED_META };
        Self { ino, kind: FileKind::File, meta, links: 1, size, allocated: size, device: (0, 0) }
    }

    /// A folder that belongs to no layer. Only root finds its way through the one with all slots: layers of private
    /// images are in it, with the modes that they have in containers. overlayfs looks with the rights of who mounted.
    pub(super) fn folder(ino: Ino) -> Self {
        let kind = FileKind::Folder;
        let mode = if ino == Ino::ROOT { 0o700 } else { IMPLIED_META.mode };
        let meta = Meta { mode, ..IMPLIED_META };
        Self { ino, kind, meta, links: 2, size: 0, allocated: 0, device: (0, 0) }
    }
}
