//! One entry of a tar, with everything that its headers said in the terms of a [`Node`](crate::tree::Node).

use tar_core::parse::ParsedEntry;
use tar_core::{EntryType, PaxExtensions, SparseEntry};

use super::error::EntryProblem;
use crate::tree::{Extent, MAX_PATH, Meta, Xattr};

/// Bytes of one attribute's value, and of all of a node's names and values (XATTR_SIZE_MAX of Linux).
const MAX_XATTRS: usize = 64 << 10;
/// Length of an attribute's name (XATTR_NAME_MAX of Linux).
const MAX_XATTR_NAME: usize = 255;

#[derive(Clone, Debug)]
pub(super) enum Content {
    Dir,
    File { size: u64, extents: Box<[Extent]> },
    Symlink(Box<[u8]>),
    Hardlink(Box<[u8]>),
    Char { major: u32, minor: u32 },
    Block { major: u32, minor: u32 },
    Fifo,
}

#[derive(Clone, Debug)]
pub(super) struct TarEntry {
    pub(super) meta: Meta,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) content: Content,
}

/// The map of a sparse file, and its size with holes.
pub(super) struct Sparse {
    pub(super) map: Vec<SparseEntry>,
    pub(super) size: u64,
}

/// Bytes that follow the header as the entry's content. Headers of entries without content may name a size all
/// the same.
pub(super) fn content_len(entry: &ParsedEntry<'_>) -> u64 {
    match entry.entry_type {
        EntryType::Link
        | EntryType::Symlink
        | EntryType::Char
        | EntryType::Block
        | EntryType::Directory
        | EntryType::Fifo => 0,
        _ => entry.size,
    }
}

impl TarEntry {
    /// `tar_offset` is where the content begins.
    pub(super) fn new(
        entry: &ParsedEntry<'_>,
        sparse: Option<Sparse>,
        tar_offset: u64,
    ) -> Result<Self, EntryProblem> {
        let id = |id: u64| u32::try_from(id).ok().filter(|&id| id != u32::MAX).ok_or(EntryProblem::Owner);
        let (mtime, mtime_nanos) = mtime(entry)?;
        Ok(Self {
            meta: Meta {
                mode: (entry.mode & 0o7777) as u16,
                uid: id(entry.uid)?,
                gid: id(entry.gid)?,
                mtime,
                mtime_nanos,
            },
            xattrs: xattrs(entry)?,
            content: content(entry, sparse, tar_offset)?,
        })
    }
}

fn content(
    entry: &ParsedEntry<'_>,
    sparse: Option<Sparse>,
    tar_offset: u64,
) -> Result<Content, EntryProblem> {
    let (major, minor) = (entry.dev_major.unwrap_or(0), entry.dev_minor.unwrap_or(0));
    Ok(match entry.entry_type {
        // A file of the oldest format whose name ends in a slash is a folder.
        EntryType::Regular if is_old(entry) && entry.path.ends_with(b"/") => Content::Dir,
        EntryType::Regular | EntryType::GnuSparse => file(entry, sparse, tar_offset)?,
        EntryType::Directory => Content::Dir,
        EntryType::Symlink => Content::Symlink(target(entry)?),
        EntryType::Link => Content::Hardlink(target(entry)?),
        // Linux has 12 bits of major and 20 of minor numbers.
        EntryType::Char | EntryType::Block if major >= 1 << 12 || minor >= 1 << 20 => {
            return Err(EntryProblem::Device);
        }
        EntryType::Char => Content::Char { major, minor },
        EntryType::Block => Content::Block { major, minor },
        EntryType::Fifo => Content::Fifo,
        other => return Err(EntryProblem::Type(char::from(other.to_byte()))),
    })
}

fn is_old(entry: &ParsedEntry<'_>) -> bool {
    entry.header.as_ustar().typeflag == [0]
}

fn target(entry: &ParsedEntry<'_>) -> Result<Box<[u8]>, EntryProblem> {
    let target = entry.link_target.as_deref().ok_or(EntryProblem::NoTarget)?;
    match target {
        b"" => Err(EntryProblem::NoTarget),
        _ if target.len() > MAX_PATH => Err(EntryProblem::LongPath),
        _ if target.contains(&0) => Err(EntryProblem::ZeroByte),
        _ => Ok(target.into()),
    }
}

fn file(entry: &ParsedEntry<'_>, sparse: Option<Sparse>, tar_offset: u64) -> Result<Content, EntryProblem> {
    let Some(Sparse { map, size }) = sparse else {
        let whole = Extent { file_offset: 0, tar_offset, len: entry.size };
        let extents = if entry.size == 0 { Box::default() } else { Box::new([whole]) as Box<[_]> };
        return Ok(Content::File { size: entry.size, extents });
    };
    let mut extents = Vec::with_capacity(map.len());
    let (mut file_end, mut used) = (0u64, 0u64);
    for part in &map {
        let end = part.offset.checked_add(part.length).filter(|&end| end <= size);
        let end = end.filter(|_| part.offset >= file_end).ok_or(EntryProblem::SparseMap)?;
        if part.length > 0 {
            extents.push(Extent {
                file_offset: part.offset,
                tar_offset: tar_offset.saturating_add(used),
                len: part.length,
            });
        }
        file_end = end;
        used = used.saturating_add(part.length);
    }
    if used != entry.size {
        return Err(EntryProblem::SparseMap);
    }
    Ok(Content::File { size, extents: extents.into() })
}

/// Seconds and nanoseconds. A PAX record may have any number of decimals.
fn mtime(entry: &ParsedEntry<'_>) -> Result<(u64, u32), EntryProblem> {
    let records = entry.pax.map(PaxExtensions::new).into_iter().flatten().flatten();
    // As for every PAX record, the last one counts.
    let Some(text) = records.filter(|record| record.key_bytes() == b"mtime").map(|r| r.value_bytes()).last()
    else {
        return Ok((entry.mtime, 0));
    };
    let Some(dot) = text.iter().position(|&byte| byte == b'.') else {
        return Ok((entry.mtime, 0));
    };
    let decimals = text.get(dot + 1..).unwrap_or_default();
    let mut nanos = 0u32;
    for place in 0..9 {
        let digit = decimals.get(place).copied().unwrap_or(b'0');
        if !digit.is_ascii_digit() {
            return Err(EntryProblem::Time);
        }
        nanos = nanos * 10 + u32::from(digit - b'0');
    }
    Ok((entry.mtime, nanos))
}

/// The attributes that containerd would set: `trusted.*` belongs to overlayfs, `user.*` exists on files and
/// folders only, and other namespaces than these are unknown to Linux.
fn xattrs(entry: &ParsedEntry<'_>) -> Result<Vec<Xattr>, EntryProblem> {
    let plain = matches!(
        entry.entry_type,
        EntryType::Regular | EntryType::Directory | EntryType::GnuSparse | EntryType::Link
    );
    let mut kept: Vec<Xattr> = Vec::new();
    let mut bytes = 0;
    for (name, value) in &entry.xattrs {
        let known = name.starts_with(b"security.")
            || name.starts_with(b"system.posix_acl_")
            || (plain && name.starts_with(b"user."));
        if !known {
            continue;
        }
        bytes += name.len() + value.len();
        if name.len() > MAX_XATTR_NAME || bytes > MAX_XATTRS || name.contains(&0) {
            return Err(EntryProblem::Xattr);
        }
        kept.push((name.as_ref().into(), value.as_ref().into()));
    }
    Ok(kept)
}
