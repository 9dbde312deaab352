//! The layers of an image, with their indexes: what of them holds which file.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use shoal_lazyfs::VerifiedSpan;
use shoal_lazyfs::build::{DEFAULT_SPAN, IndexBuilder};
use shoal_lazyfs::index::{LayerIndex, SpanIndex, encode_head};
use shoal_lazyfs::tree::{Kind, NodeIndex};

use crate::rig::image::{Blob, Image};

/// Bytes of a layer that are read at once.
const PIECE: usize = 1 << 20;

/// A layer as a node that has it whole shows it to others.
struct Indexed {
    file: PathBuf,
    index: LayerIndex,
    /// Of the index's file.
    bytes: u64,
    /// The spans' windows one after the other, and the length of each.
    windows: Vec<u8>,
    window_lengths: Vec<u32>,
}

/// All layers of an image, lowest first.
pub(super) struct Layers(Vec<Indexed>);

/// Spans of an image's layers: the number of a layer, and a span of it.
pub(super) type Spans = BTreeSet<(usize, u32)>;

/// What has to be moved and decoded for some spans.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    /// Compressed, as the layers hold them.
    pub bytes: u64,
    /// For one processor, to decode and check them.
    pub inflate_s: f64,
}

impl Layers {
    pub(super) fn of(image: &Image) -> Result<Self> {
        let indexed =
            |layer| indexed(layer).with_context(|| format!("{} cannot be read lazily", layer.digest));
        Ok(Self(image.layers.iter().map(indexed).collect::<Result<_>>()?))
    }

    /// Of all index files.
    pub(super) fn index_bytes(&self) -> u64 {
        self.0.iter().map(|layer| layer.bytes).sum()
    }

    /// Adds the spans that hold a range of a file.
    pub(super) fn add(&self, path: &Path, range: &Range<u64>, spans: &mut Spans) {
        let found = self.0.iter().enumerate().rev().find_map(|(number, layer)| {
            match &layer.index.tree.node(node(&layer.index, path)?)?.kind {
                Kind::File { extents, .. } => Some((number, &layer.index.spans, extents)),
                _ => None,
            }
        });
        let Some((number, table, extents)) = found else { return };
        for extent in extents {
            let start = range.start.max(extent.file_offset);
            let end = range.end.min(extent.file_offset + extent.len);
            if start < end {
                let in_tar = |at: u64| extent.tar_offset + (at - extent.file_offset);
                spans.extend(table.covering(in_tar(start)..in_tar(end)).map(|span| (number, span.0)));
            }
        }
    }

    /// Whether no tar says what the folder's time is.
    pub(super) fn only_implied(&self, folder: &Path) -> bool {
        let kinds = self
            .0
            .iter()
            .rev()
            .filter_map(|layer| Some(&layer.index.tree.node(node(&layer.index, folder)?)?.kind));
        let first = kinds.into_iter().next();
        matches!(first, None | Some(Kind::Dir { implied: true, .. }))
    }

    /// Decodes the spans, to measure it.
    pub(super) fn cost(&self, spans: &Spans) -> Result<Cost> {
        let mut cost = Cost { bytes: 0, inflate_s: 0.0 };
        for (layer, span) in spans {
            let layer = self.0.get(*layer).context("no such layer")?;
            let (compressed, window) = layer.span(SpanIndex(*span))?;
            cost.bytes += compressed.len() as u64;
            let start = Instant::now();
            VerifiedSpan::decode(&layer.index, SpanIndex(*span), &compressed, window)?;
            cost.inflate_s += start.elapsed().as_secs_f64();
        }
        Ok(cost)
    }
}

impl Indexed {
    /// A span's compressed bytes, and its window.
    fn span(&self, span: SpanIndex) -> Result<(Vec<u8>, &[u8])> {
        let range = self.index.spans.compressed_range(span).context("no such span")?;
        let mut compressed = vec![0; usize::try_from(range.end - range.start)?];
        File::open(&self.file)?.read_exact_at(&mut compressed, range.start)?;
        let number = span.0 as usize;
        let start: usize = self.window_lengths.iter().take(number).map(|len| *len as usize).sum();
        let len = self.window_lengths.get(number).copied().unwrap_or_default() as usize;
        Ok((compressed, self.windows.get(start..start + len).context("no such window")?))
    }
}

/// What a layer holds at a path, not counting what lies behind its symbolic links.
fn node(index: &LayerIndex, path: &Path) -> Option<NodeIndex> {
    let tree = &index.tree;
    path.iter().try_fold(tree.root(), |folder, name| tree.lookup(folder, name.as_bytes()))
}

fn indexed(layer: &Blob) -> Result<Indexed> {
    let path = layer.file()?;
    let mut file = File::open(path)?;
    let mut builder = IndexBuilder::new(layer.digest, layer.size, DEFAULT_SPAN, Vec::new())?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            read => builder.push(piece.get(..read).unwrap_or_default())?,
        }
    }
    let built = builder.finish()?;
    let head = encode_head(&built.index, &built.window_lengths)?;
    Ok(Indexed {
        file: path.to_owned(),
        bytes: (head.len() + built.sink.len()) as u64,
        index: built.index,
        windows: built.sink,
        window_lengths: built.window_lengths,
    })
}
