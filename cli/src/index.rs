//! `shoal index`: what the index of a layer holds.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;
use shoal_lazyfs::build::{BuildSink, DEFAULT_SPAN, IndexBuilder};
use shoal_lazyfs::index::{HEADER_LEN, Head, Header, LayerIndex, encode_head};
use shoal_lazyfs::tree::{Kind, NodeIndex};
use shoal_proto::Algorithm;
use shoal_store::ContentHasher;

use crate::output::line;

/// Bytes that are read at once.
const PIECE: usize = 1 << 20;

#[derive(Debug, Args)]
pub(crate) struct IndexArguments {
    /// A layer as a registry has it (gzip, zstd or plain tar), or the file of an index
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is printed. Sizes are in bytes.
#[derive(Debug, Serialize)]
struct Report {
    layer: String,
    layer_bytes: u64,
    diff_id: String,
    tar_bytes: u64,
    compression: String,
    index_id: String,
    index_bytes: u64,
    window_bytes: u64,
    span_bytes: u64,
    spans: usize,
    folders: usize,
    files: usize,
    links: usize,
    whiteouts: usize,
    others: usize,
}

/// Counts what a builder makes on the way.
#[derive(Default)]
struct Counted(u64);

impl BuildSink for Counted {
    fn tar(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn window(&mut self, compressed: &[u8]) -> io::Result<()> {
        self.0 += compressed.len() as u64;
        Ok(())
    }
}

pub(crate) fn run(arguments: IndexArguments) -> anyhow::Result<ExitCode> {
    let path = arguments.file.display();
    let mut file = File::open(&arguments.file).with_context(|| format!("cannot open {path}"))?;
    let len = file.metadata().with_context(|| format!("cannot read {path}"))?.len();
    let mut first = Vec::new();
    (&mut file).take(HEADER_LEN as u64).read_to_end(&mut first)?;
    let header = first.as_slice().try_into().ok().and_then(|bytes| Header::decode(bytes).ok());
    let report = match header {
        Some(header) => decode(&mut file, first, &header, len).with_context(|| format!("{path}"))?,
        None => build(&mut file, &first, len).with_context(|| format!("{path} cannot be read lazily"))?,
    };
    if arguments.json {
        line(&serde_json::to_string_pretty(&report)?)?;
    } else {
        line(shown(&report).trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads an index file.
fn decode(file: &mut File, mut bytes: Vec<u8>, header: &Header, len: u64) -> anyhow::Result<Report> {
    ensure!(header.head_len() <= len, "the index is cut short");
    file.take(header.head_len() - bytes.len() as u64).read_to_end(&mut bytes)?;
    let head = Head::decode(&bytes)?;
    ensure!(head.file_len() == len, "the index should have {} bytes and has {len}", head.file_len());
    Ok(report(&head.index, len, len - header.head_len()))
}

/// Reads a layer twice: for its digest, and for its index.
fn build(file: &mut File, first: &[u8], len: u64) -> anyhow::Result<Report> {
    use std::io::Seek;
    let mut hasher = ContentHasher::new(Algorithm::Sha256);
    hasher.update(first);
    each_piece(file, |piece| {
        hasher.update(piece);
        Ok(())
    })?;
    file.rewind()?;
    let mut builder = IndexBuilder::new(hasher.finish(), len, DEFAULT_SPAN, Counted::default())?;
    each_piece(file, |piece| Ok(builder.push(piece)?))?;
    let built = builder.finish()?;
    let head = encode_head(&built.index, &built.window_lengths)?;
    let windows = built.sink.0;
    Ok(report(&built.index, head.len() as u64 + windows, windows))
}

fn each_piece(file: &mut File, mut take: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(()),
            read => take(buffer.get(..read).unwrap_or_default())?,
        }
    }
}

fn report(index: &LayerIndex, index_bytes: u64, window_bytes: u64) -> Report {
    let mut report = Report {
        layer: index.layer.to_string(),
        layer_bytes: index.spans.layer_size(),
        diff_id: index.diff_id.to_string(),
        tar_bytes: index.spans.tar_size(),
        compression: format!("{:?}", index.compression).to_lowercase(),
        index_id: index.id().0.iter().map(|byte| format!("{byte:02x}")).collect(),
        index_bytes,
        window_bytes,
        span_bytes: index.span_size,
        spans: index.spans.len(),
        folders: 0,
        files: 0,
        links: 0,
        whiteouts: 0,
        others: 0,
    };
    let nodes = (0..index.tree.len()).filter_map(|at| index.tree.node(NodeIndex(u32::try_from(at).ok()?)));
    for node in nodes {
        let count = match &node.kind {
            Kind::Dir { .. } => &mut report.folders,
            Kind::File { .. } => &mut report.files,
            Kind::Symlink { .. } => &mut report.links,
            Kind::Char { major: 0, minor: 0 } => &mut report.whiteouts,
            _ => &mut report.others,
        };
        *count += 1;
    }
    report
}

fn shown(report: &Report) -> String {
    let size = |bytes| ByteSize::b(bytes);
    let Report { folders, files, links, whiteouts, others, .. } = report;
    format!(
        "layer    {}, {} ({})\nDiffID   {}, {}\nindex    {}, {}, {} of it windows\nspans    {} of about {}\n\
         entries  {folders} folders, {files} files, {links} symbolic links, {whiteouts} whiteouts, {others} others\n",
        report.layer,
        size(report.layer_bytes),
        report.compression,
        report.diff_id,
        size(report.tar_bytes),
        report.index_id,
        size(report.index_bytes),
        size(report.window_bytes),
        report.spans,
        size(report.span_bytes),
    )
}
