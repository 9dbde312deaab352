//! Extended attributes, which lie behind their node: a header, and then each with a header, its name and its value.

use super::Unfit;
use super::record::{Record, put};
use crate::fs::opaque_attribute;
use crate::tree::{Node, Xattr};

const HEADER_LEN: usize = 12;
const ENTRY_HEADER_LEN: usize = 4;
/// Entries begin at multiples of it, and their lengths are counted in it.
const UNIT: usize = 4;

/// Prefixes of names, which the format has numbers for.
const PREFIXES: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];
const WHOLE_NAMES: [(u8, &[u8]); 2] = [(2, b"system.posix_acl_access"), (3, b"system.posix_acl_default")];

/// The attributes of one node.
pub(super) struct Xattrs<'a> {
    entries: Vec<Entry<'a>>,
}

struct Entry<'a> {
    prefix: u8,
    name: &'a [u8],
    name_len: u8,
    value: &'a [u8],
    value_len: u16,
}

impl<'a> Xattrs<'a> {
    /// `own`, and what `node` has for overlayfs.
    pub(super) fn of(own: &'a [Xattr], node: &'a Node) -> Result<Self, Unfit> {
        let own = own.iter().map(|(name, value)| (&**name, &**value));
        let all = own.chain(opaque_attribute(node));
        let entry = |(name, value)| {
            Entry::new(name, value).ok_or_else(|| Unfit::Xattr(String::from_utf8_lossy(name).into_owned()))
        };
        let xattrs = Self { entries: all.map(entry).collect::<Result<_, _>>()? };
        xattrs.words().map(|_| xattrs)
    }

    /// In the image.
    pub(super) fn len(&self) -> usize {
        if self.entries.is_empty() {
            0
        } else {
            HEADER_LEN + self.entries.iter().map(Entry::len).sum::<usize>()
        }
    }

    /// Their length as the node tells it.
    pub(super) fn words(&self) -> Result<u16, Unfit> {
        let Some(entries) = self.len().checked_sub(HEADER_LEN) else { return Ok(0) };
        u16::try_from(entries / UNIT + 1).map_err(|_| Unfit::Size)
    }

    pub(super) fn write(&self, image: &mut [u8], start: usize) {
        let mut at = start + HEADER_LEN;
        for entry in &self.entries {
            let mut header = Record::<ENTRY_HEADER_LEN>::new();
            header.u8(0, entry.name_len).u8(1, entry.prefix).u16(2, entry.value_len);
            put(image, at, &header.0);
            put(image, at + ENTRY_HEADER_LEN, entry.name);
            put(image, at + ENTRY_HEADER_LEN + entry.name.len(), entry.value);
            at += entry.len();
        }
    }
}

impl<'a> Entry<'a> {
    /// Nothing if the format cannot say it.
    fn new(name: &'a [u8], value: &'a [u8]) -> Option<Self> {
        let whole =
            WHOLE_NAMES.iter().find(|(_, whole)| *whole == name).map(|(prefix, _)| (*prefix, &b""[..]));
        let cut = |(number, prefix): &(u8, &[u8])| Some((*number, name.strip_prefix(*prefix)?));
        let (prefix, name) = whole.or_else(|| PREFIXES.iter().find_map(cut))?;
        let (name_len, value_len) = (u8::try_from(name.len()).ok()?, u16::try_from(value.len()).ok()?);
        Some(Self { prefix, name, name_len, value, value_len })
    }

    fn len(&self) -> usize {
        (ENTRY_HEADER_LEN + self.name.len() + self.value.len()).next_multiple_of(UNIT)
    }
}
