//! Applies a tar's entries one after the other to an empty folder, in memory and as containerd's overlay
//! snapshotter does: a later entry replaces an earlier one, folders merge, paths follow symbolic links of the
//! same layer, whiteouts become what overlayfs understands.

use std::collections::{BTreeMap, VecDeque};

use super::draft::{self, Draft, DraftDir, DraftNode, Id, ROOT};
use super::entry::{Content, TarEntry};
use super::error::{EntryProblem, TarError};
use super::path;
use crate::tree::{MAX_ENTRIES, MAX_PATH, MAX_TEXT, Meta, Tree, Xattr};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Links that the resolution of one path may follow, as containerd's does.
const MAX_FOLLOWED: usize = 255;
/// Parts of paths walked for one layer: a million entries that each lie 64 folders deep.
const MAX_WALKED: usize = 64 << 20;

/// Where an entry's path leads: the folders that are there, and the names of those that are not.
struct Place<'a> {
    dir: Id,
    missing: Vec<&'a [u8]>,
    /// Parts walked to find it.
    walked: usize,
}

/// What can be wrong with an entry, or with all entries so far.
enum Problem {
    Entry(EntryProblem),
    TooManyEntries,
    TooMuchText,
    TooMuchWork,
}

impl From<EntryProblem> for Problem {
    fn from(problem: EntryProblem) -> Self {
        Self::Entry(problem)
    }
}

#[derive(Debug)]
pub(super) struct TreeBuilder {
    nodes: Vec<DraftNode>,
    /// Entries seen and bytes of their texts, whether they are still in the tree or not.
    entries: usize,
    text: usize,
    walked: usize,
}

impl TreeBuilder {
    pub(super) fn new() -> Self {
        // What a tar says of the root itself is ignored by containerd.
        Self { nodes: vec![DraftNode::implied_dir()], entries: 0, text: 0, walked: 0 }
    }

    pub(super) fn apply(&mut self, path: &[u8], entry: TarEntry) -> Result<(), TarError> {
        let placed = self.count(&entry).and_then(|()| self.place(path, entry));
        placed.map_err(|problem| match problem {
            Problem::Entry(problem) => {
                TarError::Entry { path: String::from_utf8_lossy(path).into_owned(), problem }
            }
            Problem::TooManyEntries => TarError::TooManyEntries,
            Problem::TooMuchText => TarError::TooMuchText,
            Problem::TooMuchWork => TarError::TooMuchWork,
        })
    }

    pub(super) fn finish(self) -> Tree {
        draft::into_tree(self.nodes)
    }

    fn count(&mut self, entry: &TarEntry) -> Result<(), Problem> {
        let content = match &entry.content {
            Content::Symlink(target) => target.len(),
            Content::File { extents, .. } => size_of_val(&**extents),
            _ => 0,
        };
        let xattrs: usize =
            entry.xattrs.iter().map(|(name, value)| size_of::<Xattr>() + name.len() + value.len()).sum();
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(Problem::TooManyEntries);
        }
        self.spend_text(content + xattrs)
    }

    fn spend_text(&mut self, bytes: usize) -> Result<(), Problem> {
        self.text += bytes;
        if self.text > MAX_TEXT { Err(Problem::TooMuchText) } else { Ok(()) }
    }

    fn place(&mut self, path: &[u8], entry: TarEntry) -> Result<(), Problem> {
        let parts = path::clean(path)?;
        let Some((name, parents)) = parts.split_last() else {
            return Ok(()); // the root
        };
        let dir = self.make_dirs(parents)?;
        if *name == OPAQUE {
            if let Some(dir) = self.dir_mut(dir) {
                dir.opaque = true;
            }
            return Ok(());
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(dir, hidden, entry.meta);
        }
        self.put(dir, name, entry)
    }

    fn whiteout(&mut self, dir: Id, name: &[u8], meta: Meta) -> Result<(), Problem> {
        if matches!(name, b"" | b"." | b"..") {
            return Err(EntryProblem::EmptyWhiteout.into());
        }
        if self.child(dir, name).is_some() {
            return Err(EntryProblem::WhiteoutOfOwn.into());
        }
        let meta = Meta { uid: meta.uid, gid: meta.gid, mode: 0, mtime: 0, mtime_nanos: 0 };
        let draft = Draft::Char { major: 0, minor: 0 };
        let id = self.add(DraftNode { meta, xattrs: BTreeMap::new(), draft })?;
        self.link(dir, name, id)
    }

    fn put(&mut self, dir: Id, name: &[u8], entry: TarEntry) -> Result<(), Problem> {
        let old = self.child(dir, name);
        let keeps = matches!(entry.content, Content::Dir) && old.is_some_and(|id| self.is_dir(id));
        if !keeps && let Some(dir) = self.dir_mut(dir) {
            dir.names.remove(name);
        }
        let id = match (old, entry.content) {
            (Some(old), Content::Dir) if keeps => {
                if let Some(dir) = self.dir_mut(old) {
                    dir.implied = false;
                }
                old
            }
            (_, Content::Hardlink(target)) => self.hardlink_target(&target)?,
            (_, Content::Dir) => self.add(DraftNode::new(Draft::Dir(DraftDir::default())))?,
            (_, Content::File { size, extents }) => {
                self.add(DraftNode::new(Draft::File { size, extents }))?
            }
            (_, Content::Symlink(target)) => self.add(DraftNode::new(Draft::Symlink { target }))?,
            (_, Content::Char { major, minor }) => self.add(DraftNode::new(Draft::Char { major, minor }))?,
            (_, Content::Block { major, minor }) => {
                self.add(DraftNode::new(Draft::Block { major, minor }))?
            }
            (_, Content::Fifo) => self.add(DraftNode::new(Draft::Fifo))?,
        };
        self.link(dir, name, id)?;
        if let Some(node) = self.nodes.get_mut(id) {
            node.meta = entry.meta;
            if matches!(node.draft, Draft::Symlink { .. }) {
                node.meta.mode = 0o777;
            }
            node.xattrs.extend(entry.xattrs);
        }
        Ok(())
    }

    /// What a hard link's target names: its folder's path follows links, its last part does not.
    fn hardlink_target(&mut self, target: &[u8]) -> Result<Id, Problem> {
        let parts = path::clean(target)?;
        let (name, parents) = parts.split_last().ok_or(EntryProblem::LinkToDirectory)?;
        let place = self.resolve(parents)?;
        let walked = place.walked;
        let id = if place.missing.is_empty() { self.child(place.dir, name) } else { None };
        self.spend(walked)?;
        let id = id.ok_or(EntryProblem::MissingTarget)?;
        if self.is_dir(id) { Err(EntryProblem::LinkToDirectory.into()) } else { Ok(id) }
    }

    /// The folder that `parts` lead to; what is missing is made.
    fn make_dirs(&mut self, parts: &[&[u8]]) -> Result<Id, Problem> {
        let Place { mut dir, missing, walked } = self.resolve(parts)?;
        let missing: Vec<Box<[u8]>> = missing.into_iter().map(Into::into).collect();
        self.spend(walked)?;
        for name in missing {
            let made = self.add(DraftNode::implied_dir())?;
            self.link(dir, &name, made)?;
            dir = made;
        }
        Ok(dir)
    }

    /// Walks along `parts` within the root. Symbolic links are followed, also the last one; `..` of a link's
    /// target does not leave the root.
    fn resolve<'a>(&'a self, parts: &[&'a [u8]]) -> Result<Place<'a>, Problem> {
        let mut todo: VecDeque<&[u8]> = parts.iter().copied().collect();
        let mut trail = vec![ROOT];
        let mut missing: Vec<&[u8]> = Vec::new();
        let (mut followed, mut walked) = (0, 0);
        while let Some(part) = todo.pop_front() {
            walked += 1;
            match part {
                b"" | b"." => continue,
                b".." => {
                    if missing.pop().is_none() && trail.len() > 1 {
                        trail.pop();
                    }
                    continue;
                }
                _ => {}
            }
            let dir = trail.last().copied().unwrap_or(ROOT);
            let child = if missing.is_empty() { self.child(dir, part) } else { None };
            let Some(child) = child else {
                missing.push(part);
                continue;
            };
            match self.nodes.get(child).map(|node| &node.draft) {
                Some(Draft::Dir(_)) => trail.push(child),
                Some(Draft::Symlink { target }) => {
                    followed += 1;
                    if followed > MAX_FOLLOWED {
                        return Err(EntryProblem::TooManySymlinks.into());
                    }
                    if target.starts_with(b"/") {
                        trail.truncate(1);
                    }
                    for part in target.split(|&byte| byte == b'/').rev() {
                        todo.push_front(part);
                    }
                }
                _ => return Err(EntryProblem::NotADirectory.into()),
            }
            if todo.len() > MAX_PATH {
                return Err(EntryProblem::LongPath.into());
            }
        }
        Ok(Place { dir: trail.last().copied().unwrap_or(ROOT), missing, walked })
    }

    fn spend(&mut self, walked: usize) -> Result<(), Problem> {
        self.walked = self.walked.saturating_add(walked);
        if self.walked > MAX_WALKED { Err(Problem::TooMuchWork) } else { Ok(()) }
    }

    fn add(&mut self, node: DraftNode) -> Result<Id, Problem> {
        if self.nodes.len() >= MAX_ENTRIES {
            return Err(Problem::TooManyEntries);
        }
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    fn link(&mut self, dir: Id, name: &[u8], id: Id) -> Result<(), Problem> {
        self.spend_text(name.len())?;
        let Some(dir) = self.dir_mut(dir) else { return Err(EntryProblem::NotADirectory.into()) };
        let path = dir.path + 1 + name.len();
        if path > MAX_PATH {
            return Err(EntryProblem::LongPath.into());
        }
        dir.names.insert(name.into(), id);
        if let Some(dir) = self.dir_mut(id) {
            dir.path = path;
        }
        Ok(())
    }

    fn child(&self, dir: Id, name: &[u8]) -> Option<Id> {
        match &self.nodes.get(dir)?.draft {
            Draft::Dir(dir) => dir.names.get(name).copied(),
            _ => None,
        }
    }

    fn is_dir(&self, id: Id) -> bool {
        matches!(self.nodes.get(id).map(|node| &node.draft), Some(Draft::Dir(_)))
    }

    fn dir_mut(&mut self, id: Id) -> Option<&mut DraftDir> {
        match &mut self.nodes.get_mut(id)?.draft {
            Draft::Dir(dir) => Some(dir),
            _ => None,
        }
    }
}
