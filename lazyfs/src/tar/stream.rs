//! Finds the entries of a tar in bytes that arrive in pieces of any size. Contents are passed over: only where
//! they lie is noted.

use tar_core::parse::{Limits, ParseEvent, Parser};

use super::apply::TreeBuilder;
use super::entry::{Sparse, TarEntry, content_len};
use super::error::TarError;
use crate::tree::{MAX_PATH, Tree};

const BLOCK: u64 = 512;
/// Bytes of all headers of one entry: long names, PAX records (attributes of at most 64 KiB), the map of a
/// sparse file.
const MAX_HEADER: usize = 2 << 20;
/// Pieces of one sparse file.
const MAX_SPARSE: usize = 10_000;

pub(crate) struct TarStream {
    parser: Parser,
    tree: TreeBuilder,
    /// The beginning of an entry whose headers are not complete yet.
    pending: Vec<u8>,
    /// Length that `pending` must reach before it is looked at again.
    wanted: usize,
    /// Where in the tar the next byte to be looked at lies: `pending` first, then what is pushed.
    offset: u64,
    /// Bytes of content, then of padding, to pass over.
    content: u64,
    padding: u64,
    ended: bool,
}

impl std::fmt::Debug for TarStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarStream").field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl TarStream {
    pub(crate) fn new() -> Self {
        let limits = Limits {
            max_metadata_size: 1 << 20,
            max_path_len: u32::try_from(MAX_PATH).ok(),
            max_sparse_entries: MAX_SPARSE,
            ..Limits::default()
        };
        Self {
            parser: Parser::new(limits),
            tree: TreeBuilder::new(),
            pending: Vec::new(),
            wanted: 0,
            offset: 0,
            content: 0,
            padding: 0,
            ended: false,
        }
    }

    /// Takes the next bytes of the tar.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) -> Result<(), TarError> {
        while !self.pending.is_empty() {
            let missing = self.wanted.saturating_sub(self.pending.len());
            let (head, rest) = bytes.split_at(missing.min(bytes.len()));
            self.pending.extend_from_slice(head);
            bytes = rest;
            if self.pending.len() < self.wanted {
                return Ok(());
            }
            let pending = std::mem::take(&mut self.pending);
            self.read(&pending)?;
        }
        self.read(bytes)
    }

    /// The tree, once the tar ended. What follows the end marker is not looked at, and the marker may miss.
    pub(crate) fn finish(mut self) -> Result<Tree, TarError> {
        // More was asked for than the entry needed.
        let pending = std::mem::take(&mut self.pending);
        self.read(&pending)?;
        if !self.pending.is_empty() || self.content > 0 {
            return Err(TarError::Truncated);
        }
        Ok(self.tree.finish())
    }

    fn read(&mut self, mut bytes: &[u8]) -> Result<(), TarError> {
        while !bytes.is_empty() && !self.ended {
            bytes = self.pass_over(bytes);
            if bytes.is_empty() {
                break;
            }
            let consumed = self.entry(bytes)?;
            bytes = bytes.get(consumed..).unwrap_or_default();
        }
        Ok(())
    }

    fn pass_over<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let available = bytes.len() as u64;
        let content = self.content.min(available);
        let padding = self.padding.min(available - content);
        self.content -= content;
        self.padding -= padding;
        self.offset += content + padding;
        usize::try_from(content + padding).ok().and_then(|passed| bytes.get(passed..)).unwrap_or_default()
    }

    /// Reads the headers of one entry; returns how many bytes they had, or keeps all if they are incomplete.
    fn entry(&mut self, bytes: &[u8]) -> Result<usize, TarError> {
        let offset = self.offset;
        let event = self.parser.parse(bytes).map_err(|source| TarError::Header { offset, source })?;
        let (consumed, entry, sparse) = match event {
            ParseEvent::NeedData { min_bytes } => return self.keep(bytes, min_bytes),
            ParseEvent::End { consumed } => {
                self.ended = true;
                return Ok(consumed);
            }
            // As containerd does: defaults for all entries are not applied.
            ParseEvent::GlobalExtensions { consumed, .. } => {
                self.offset += consumed as u64;
                return Ok(consumed);
            }
            ParseEvent::Entry { consumed, entry } => (consumed, entry, None),
            ParseEvent::SparseEntry { consumed, entry, sparse_map: map, real_size: size } => {
                (consumed, entry, Some(Sparse { map, size }))
            }
        };
        self.offset += consumed as u64;
        self.content = content_len(&entry);
        self.padding = self.content.wrapping_neg() % BLOCK;
        let read = TarEntry::new(&entry, sparse, self.offset)
            .map_err(|problem| TarError::Entry { path: entry.path_lossy().into_owned(), problem })?;
        self.tree.apply(&entry.path, read)?;
        Ok(consumed)
    }

    fn keep(&mut self, bytes: &[u8], min_bytes: usize) -> Result<usize, TarError> {
        // Where the parser cannot tell how much it needs, twice as much as there is keeps the work linear.
        self.wanted = if min_bytes > bytes.len() { min_bytes } else { bytes.len().saturating_mul(2) };
        if self.wanted > MAX_HEADER {
            return Err(TarError::LongHeader { offset: self.offset, limit: MAX_HEADER });
        }
        self.pending = bytes.to_vec();
        Ok(bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Kind;

    #[test]
    fn files_may_be_larger_than_4_gib() {
        let mut header = tar::Header::new_gnu();
        header.set_path("large").unwrap();
        header.set_size(5 << 30);
        header.set_mode(0o644);
        header.set_cksum();
        let mut stream = TarStream::new();
        stream.push(header.as_bytes()).unwrap();
        let zeros = vec![0; 64 << 20];
        for _ in 0..80 {
            stream.push(&zeros).unwrap();
        }
        header.set_path("next").unwrap();
        header.set_size(0);
        header.set_cksum();
        stream.push(header.as_bytes()).unwrap();
        let tree = stream.finish().unwrap();
        let large = tree.lookup(tree.root(), b"large").and_then(|node| tree.node(node)).unwrap();
        assert!(matches!(large.kind, Kind::File { size: 5_368_709_120, .. }));
        assert!(tree.lookup(tree.root(), b"next").is_some());
    }
}
