//! What the filesystem shows, without a kernel: one folder for each layer in its place (a *slot*), named by its
//! number, as overlayfs wants them for its `lowerdir`; and an empty folder, since overlayfs takes no single one.
//!
//! Nothing ever changes but that slots come and go, so kernels may remember all they are told of what is in them. An
//! inode's number is a function of slot and node: unique over all layers, and the same after a restart.

mod attr;
mod read;

use std::sync::{Arc, PoisonError, RwLock};

use crate::chain::PlacedLayer;
use crate::tree::{Kind, MAX_ENTRIES, Node, NodeIndex};

pub use attr::{Attr, FileKind};
pub use read::FileRead;

/// The name of the empty folder.
pub const EMPTY: &str = "e";
/// After a slot's number: the name of its layer's tar, which is not listed.
pub const TAR_SUFFIX: &str = ".tar";
/// What overlayfs looks for in a folder that hides those below it.
const OPAQUE: (&[u8], &[u8]) = (b"trusted.overlay.opaque", b"y");
/// Numbers of slots, none of which is given out twice: fifty new layers an hour for two years.
pub(crate) const MAX_SLOTS: u32 = 1 << 20;

/// An inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    pub const ROOT: Self = Self(1);
    const EMPTY: Self = Self(2);
    /// The tar of slot 0; those of the others follow. Far beyond all nodes.
    const TARS: u64 = 1 << 62;

    fn tar(slot: SlotNumber) -> Self {
        Self(Self::TARS + u64::from(slot.0))
    }

    fn tars_slot(self) -> Option<SlotNumber> {
        Some(SlotNumber(u32::try_from(self.0.checked_sub(Self::TARS)?).ok()?))
    }

    fn new(slot: SlotNumber, node: NodeIndex) -> Self {
        Self((u64::from(slot.0) + 1) * MAX_ENTRIES as u64 + u64::from(node.0))
    }

    fn split(self) -> Option<(SlotNumber, NodeIndex)> {
        let slot = (self.0 / MAX_ENTRIES as u64).checked_sub(1)?;
        let node = self.0 % MAX_ENTRIES as u64;
        Some((SlotNumber(u32::try_from(slot).ok()?), NodeIndex(u32::try_from(node).ok()?)))
    }
}

/// The number of a layer in its place; its folder's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotNumber(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FsError {
    #[error("no such file")]
    NotFound,
    #[error("not a folder")]
    NotAFolder,
    #[error("is a folder")]
    IsAFolder,
    #[error("of another type")]
    OtherType,
    #[error("no such attribute")]
    NoAttribute,
}

/// A name in a folder.
#[derive(Debug)]
pub struct Listed<'a> {
    pub name: &'a [u8],
    pub attr: Attr,
    /// Where to go on after it.
    pub next: u64,
}

#[derive(Debug, Default)]
pub struct LazyFs {
    slots: RwLock<Vec<Option<Arc<PlacedLayer>>>>,
}

impl LazyFs {
    /// Shows a layer. False if there are too many.
    pub fn add(&self, slot: SlotNumber, layer: Arc<PlacedLayer>) -> bool {
        if slot.0 >= MAX_SLOTS {
            return false;
        }
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let at = slot.0 as usize;
        if slots.len() <= at {
            slots.resize(at + 1, None);
        }
        if let Some(place) = slots.get_mut(at) {
            *place = Some(layer);
        }
        true
    }

    /// Shows a layer no more. Who still asks for its files is told that there are none.
    pub fn remove(&self, slot: SlotNumber) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let removed = slots.get_mut(slot.0 as usize).and_then(Option::take);
        // It takes time to forget a large one.
        drop(slots);
        drop(removed);
    }

    pub fn slot(&self, slot: SlotNumber) -> Option<Arc<PlacedLayer>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(slot.0 as usize).cloned().flatten()
    }

    /// `Ok(None)`: there is no such name, and there never will be.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Result<Option<Attr>, FsError> {
        match parent {
            Ino::ROOT if name == EMPTY.as_bytes() => Ok(Some(Attr::folder(Ino::EMPTY))),
            Ino::ROOT => self.lookup_slot(name).map(Some),
            Ino::EMPTY => Ok(None),
            _ => {
                let (placed, slot, dir) = self.find(parent)?;
                let found = placed.tree().lookup(dir, name);
                found.map(|node| attr_of(&placed, slot, node)).transpose()
            }
        }
    }

    fn lookup_slot(&self, name: &[u8]) -> Result<Attr, FsError> {
        let tars_number = name.strip_suffix(TAR_SUFFIX.as_bytes());
        let number = tars_number.unwrap_or(name);
        let parsed = std::str::from_utf8(number).ok().and_then(|number| number.parse().ok());
        let slot = SlotNumber(parsed.ok_or(FsError::NotFound)?);
        // Only as it is listed: not `01`.
        let canonical = slot.0.to_string().as_bytes() == number;
        let placed = self.slot(slot).filter(|_| canonical).ok_or(FsError::NotFound)?;
        match tars_number {
            Some(_) => Ok(tar_attr(&placed, slot)),
            None => attr_of(&placed, slot, placed.tree().root()),
        }
    }

    pub fn attr(&self, ino: Ino) -> Result<Attr, FsError> {
        match ino {
            Ino::ROOT | Ino::EMPTY => Ok(Attr::folder(ino)),
            _ => {
                if let Some(slot) = ino.tars_slot() {
                    let placed = self.slot(slot).ok_or(FsError::NotFound)?;
                    return Ok(tar_attr(&placed, slot));
                }
                let (placed, slot, node) = self.find(ino)?;
                attr_of(&placed, slot, node)
            }
        }
    }

    /// Hands a folder's names to `take` until it has enough (returns false): `.` and `..` first, then the others in
    /// one order; from `offset` on, which is 0 or a [`Listed::next`].
    pub fn list(
        &self,
        dir: Ino,
        offset: u64,
        mut take: impl FnMut(Listed<'_>) -> bool,
    ) -> Result<(), FsError> {
        let parent = self.parent(dir)?;
        let dots = [(&b"."[..], dir), (&b".."[..], parent)];
        let mut next = offset;
        for (name, ino) in dots.iter().skip(position(offset)) {
            next += 1;
            if !take(Listed { name, attr: self.attr(*ino)?, next }) {
                return Ok(());
            }
        }
        let first = position(offset.saturating_sub(2));
        match dir {
            Ino::ROOT => self.list_slots(first, next, take),
            Ino::EMPTY => Ok(()),
            _ => {
                let (placed, slot, node) = self.find(dir)?;
                for (name, node) in placed.tree().entries_from(node, first) {
                    next += 1;
                    if !take(Listed { name, attr: attr_of(&placed, slot, node)?, next }) {
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    pub fn link_target(&self, ino: Ino) -> Result<Box<[u8]>, FsError> {
        let (placed, _, index) = self.find(ino)?;
        match &node(&placed, index)?.kind {
            Kind::Symlink { target } => Ok(target.clone()),
            _ => Err(FsError::OtherType),
        }
    }

    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Box<[u8]>, FsError> {
        let (placed, _, index) = self.find(ino).map_err(|_| FsError::NoAttribute)?;
        let node = node(&placed, index)?;
        if name == OPAQUE.0 {
            return opaque_attribute(node).map(|(_, value)| value.into()).ok_or(FsError::NoAttribute);
        }
        let xattrs = placed.xattrs(index, node);
        let at = xattrs.binary_search_by(|(known, _)| (**known).cmp(name));
        let found = at.ok().and_then(|at| xattrs.get(at)).ok_or(FsError::NoAttribute)?;
        Ok(found.1.clone())
    }

    /// Names of attributes, each with a zero byte after it.
    pub fn xattr_names(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        if ino.split().is_none() {
            return Ok(Vec::new());
        }
        let (placed, _, index) = self.find(ino)?;
        let node = node(&placed, index)?;
        let own = placed.xattrs(index, node).iter().map(|(name, _)| &**name);
        let opaque = opaque_attribute(node).map(|(name, _)| name);
        Ok(own.chain(opaque).flat_map(|name| name.iter().copied().chain([0])).collect())
    }

    /// A read of a file's bytes, of which those beyond its end are left out.
    pub fn read(&self, ino: Ino, offset: u64, len: usize) -> Result<FileRead, FsError> {
        if let Some(slot) = ino.tars_slot() {
            let placed = self.slot(slot).ok_or(FsError::NotFound)?;
            return Ok(FileRead::of_tar(placed.layer().clone(), offset, len));
        }
        let (placed, _, index) = self.find(ino)?;
        match &node(&placed, index)?.kind {
            Kind::File { size, extents } => {
                Ok(FileRead::new(placed.layer().clone(), *size, extents, offset, len))
            }
            Kind::Dir { .. } => Err(FsError::IsAFolder),
            _ => Err(FsError::OtherType),
        }
    }

    /// All that are shown, in the order of their numbers.
    pub fn slots(&self) -> Vec<SlotNumber> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let shown = slots.iter().enumerate().filter(|(_, slot)| slot.is_some());
        shown.filter_map(|(at, _)| Some(SlotNumber(u32::try_from(at).ok()?))).collect()
    }

    fn list_slots(
        &self,
        first: usize,
        mut next: u64,
        mut take: impl FnMut(Listed<'_>) -> bool,
    ) -> Result<(), FsError> {
        let count = self.slots.read().unwrap_or_else(PoisonError::into_inner).len();
        // The empty folder is listed before slot 0.
        for at in first..=count {
            next += 1;
            let slot = at.checked_sub(1).map(|slot| SlotNumber(u32::try_from(slot).unwrap_or(u32::MAX)));
            let name = slot.map_or_else(|| EMPTY.to_owned(), |slot| slot.0.to_string());
            let attr = match self.lookup(Ino::ROOT, name.as_bytes()) {
                Ok(Some(attr)) => attr,
                _ => continue,
            };
            if !take(Listed { name: name.as_bytes(), attr, next }) {
                break;
            }
        }
        Ok(())
    }

    fn parent(&self, dir: Ino) -> Result<Ino, FsError> {
        if matches!(dir, Ino::ROOT | Ino::EMPTY) {
            return Ok(Ino::ROOT);
        }
        let (placed, slot, index) = self.find(dir)?;
        match node(&placed, index)?.kind {
            Kind::Dir { .. } if index == placed.tree().root() => Ok(Ino::ROOT),
            Kind::Dir { parent, .. } => Ok(Ino::new(slot, parent)),
            _ => Err(FsError::NotAFolder),
        }
    }

    fn find(&self, ino: Ino) -> Result<(Arc<PlacedLayer>, SlotNumber, NodeIndex), FsError> {
        let (slot, node) = ino.split().ok_or(FsError::NotFound)?;
        Ok((self.slot(slot).ok_or(FsError::NotFound)?, slot, node))
    }
}

fn attr_of(placed: &PlacedLayer, slot: SlotNumber, index: NodeIndex) -> Result<Attr, FsError> {
    let node = node(placed, index)?;
    Ok(Attr::new(Ino::new(slot, index), node, placed.meta(index, node)))
}

fn tar_attr(placed: &PlacedLayer, slot: SlotNumber) -> Attr {
    Attr::tar(Ino::tar(slot), placed.layer().index().spans.tar_size())
}

fn node(placed: &PlacedLayer, index: NodeIndex) -> Result<&Node, FsError> {
    placed.tree().node(index).ok_or(FsError::NotFound)
}

/// The attribute that an opaque folder has for overlayfs.
pub(crate) fn opaque_attribute(node: &Node) -> Option<(&'static [u8], &'static [u8])> {
    matches!(node.kind, Kind::Dir { opaque: true, .. }).then_some(OPAQUE)
}

fn position(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
