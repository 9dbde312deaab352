//! Layers that the tests index.

use std::io::{self, Write as _};

use shoal_lazyfs::build::{BuildError, BuildSink, Built, IndexBuilder};
use shoal_lazyfs::index::{Head, SpanIndex, encode_head};
use shoal_lazyfs::{SpanError, VerifiedSpan};
use shoal_proto::Digest;

/// Small, so that small layers have many spans.
pub(crate) const SPAN: u64 = 64 << 10;

/// A tar of text-like and random files, about `size` bytes.
pub(crate) fn tar(seed: u64, size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let words: Vec<String> =
        (0..500).map(|_| (0..random.usize(2..9)).map(|_| random.lowercase()).collect()).collect();
    let mut tar = tar::Builder::new(Vec::new());
    let mut number = 0;
    while tar.get_ref().len() < size {
        number += 1;
        let len = random.usize(0..200_000);
        let content: Vec<u8> = match number % 4 {
            0 => (0..len).map(|_| random.u8(..)).collect(),
            1 => vec![7; len],
            _ => {
                let mut text = String::new();
                while text.len() < len {
                    text.push_str(&words[random.usize(..words.len())]);
                    text.push(if random.u8(..9) == 0 { '\n' } else { ' ' });
                }
                text.into_bytes()
            }
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("folder/file-{number}"), &*content).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(crate) fn gzip(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One gzip member for each piece of `len` bytes.
pub(crate) fn gzip_members(bytes: &[u8], len: usize) -> Vec<u8> {
    bytes.chunks(len).flat_map(|piece| gzip(piece, 6)).collect()
}

/// One zstd frame for each piece of `len` bytes.
pub(crate) fn zstd_frames(bytes: &[u8], len: usize) -> Vec<u8> {
    bytes.chunks(len).flat_map(|piece| zstd::bulk::compress(piece, 3).unwrap()).collect()
}

/// What the programs that people make layers with write; `None` where one is not installed.
pub(crate) fn compressed_by(program: &str, args: &[&str], bytes: &[u8]) -> Option<Vec<u8>> {
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(bytes).unwrap();
    io::Seek::rewind(&mut input).unwrap();
    let output = std::process::Command::new(program).args(args).stdin(input).output().ok()?;
    assert!(output.status.success(), "{program}");
    Some(output.stdout)
}

#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) tar: Vec<u8>,
    pub(crate) windows: Vec<u8>,
}

impl BuildSink for Kept {
    fn tar(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tar.extend_from_slice(bytes);
        Ok(())
    }

    fn window(&mut self, compressed: &[u8]) -> io::Result<()> {
        self.windows.extend_from_slice(compressed);
        Ok(())
    }
}

pub(crate) fn build(layer: &[u8], pieces: usize) -> Result<Built<Kept>, BuildError> {
    let digest = Digest::sha256([1; 32]);
    let mut builder = IndexBuilder::new(digest, layer.len() as u64, SPAN, Kept::default()).unwrap();
    for piece in layer.chunks(pieces) {
        builder.push(piece)?;
    }
    builder.finish()
}

/// A layer with its index, as a node has them that only fetched the index.
#[derive(Debug)]
pub(crate) struct Indexed {
    pub(crate) layer: Vec<u8>,
    pub(crate) file: Vec<u8>,
    pub(crate) head: Head,
    pub(crate) tar: Vec<u8>,
}

impl Indexed {
    pub(crate) fn new(layer: Vec<u8>) -> Self {
        let built = build(&layer, 10_000).unwrap();
        let mut file = encode_head(&built.index, &built.window_lengths).unwrap();
        let head = Head::decode(&file).unwrap();
        assert_eq!(head.index, built.index);
        file.extend_from_slice(&built.sink.windows);
        assert_eq!(head.file_len(), file.len() as u64);
        Self { layer, file, head, tar: built.sink.tar }
    }

    pub(crate) fn compressed(&self, span: SpanIndex) -> &[u8] {
        let range = self.head.index.spans.compressed_range(span).unwrap();
        &self.layer[range.start as usize..range.end as usize]
    }

    pub(crate) fn window(&self, span: SpanIndex) -> &[u8] {
        let range = self.head.window_range(span).unwrap_or_default();
        &self.file[range.start as usize..range.end as usize]
    }

    pub(crate) fn span(&self, span: SpanIndex) -> Result<VerifiedSpan, SpanError> {
        VerifiedSpan::decode(&self.head.index, span, self.compressed(span), self.window(span))
    }

    pub(crate) fn read(&self, start: u64, end: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for span in self.head.index.spans.covering(start..end) {
            let range = self.head.index.spans.tar_range(span).unwrap();
            let whole = self.span(span).unwrap();
            let from = start.max(range.start) - range.start;
            let to = end.min(range.end) - range.start;
            bytes.extend_from_slice(&whole.bytes()[from as usize..to as usize]);
        }
        bytes
    }
}
