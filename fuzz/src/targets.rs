//! What no bytes may break: each function panics only if a promise does not hold.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

use std::io;

use shoal_lazyfs::build::{BuildSink, Built, IndexBuilder};
use shoal_lazyfs::erofs::lone_image;
use shoal_lazyfs::index::{Compression, Entrance, Head, LayerIndex, Span, SpanTable, WindowRef, encode_head};
use shoal_lazyfs::link::messages::{Answer, Reply, Request};
use shoal_lazyfs::link::{Image, client_frames, receive, server_frames};
use shoal_lazyfs::{SpanError, VerifiedSpan};
use shoal_proto::Digest;
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;

mod erofs_image;

use erofs_image::ErofsImage;

type Target = fn(&[u8]);

pub(crate) const TARGETS: [(&str, Target); 6] =
    [("index", index), ("tar", tar), ("layer", layer), ("erofs", erofs), ("span", span), ("link", link)];

/// Bytes of tar that a target looks at: a few bytes of a compressed layer may be very many.
const MAX_TAR: usize = 4 << 20;

#[derive(Default)]
struct Kept {
    tar: Vec<u8>,
    windows: Vec<u8>,
}

impl BuildSink for Kept {
    fn tar(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tar.extend_from_slice(bytes);
        if self.tar.len() > MAX_TAR { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn window(&mut self, compressed: &[u8]) -> io::Result<()> {
        self.windows.extend_from_slice(compressed);
        Ok(())
    }
}

/// The head of an index file, and the table in it: one index, one encoding.
pub(crate) fn index(data: &[u8]) {
    if let Ok(head) = Head::decode(data) {
        assert_eq!(head.index.id(), head.id);
    }
    // Behind its hash no fuzzer finds the table.
    let Some((&lengths, table)) = data.split_first() else { return };
    let Ok(index) = LayerIndex::decode(table) else { return };
    assert!(index.encode() == table, "two encodings of one index");
    let lengths: Vec<u32> = index
        .spans
        .iter()
        .map(|span| match span.entrance {
            Entrance::Block { window: WindowRef { len: 1.., .. }, .. } => lengths.into(),
            _ => 0,
        })
        .collect();
    if let Ok(head) = Head::decode(&encode_head(&index, &lengths).unwrap()) {
        assert!(head.index == index);
        assert_eq!(head.id, index.id());
    }
    let tree = &index.tree;
    for node in (0..tree.len()).map(|node| shoal_lazyfs::tree::NodeIndex(node as u32)) {
        for (name, child) in tree.entries(node) {
            assert_eq!(tree.lookup(node, name), Some(child));
        }
    }
}

fn build(layer: &[u8], span_size: u64, piece: usize) -> Option<Built<Kept>> {
    let digest = Digest::sha256([1; 32]);
    let mut builder = IndexBuilder::new(digest, layer.len() as u64, span_size, Kept::default()).unwrap();
    for piece in layer.chunks(piece) {
        builder.push(piece).ok()?;
    }
    builder.finish().ok()
}

/// A layer, in pieces of any size: its index is the same, and each span of it is read as the builder saw it.
fn indexed(layer: &[u8], span_size: u64, piece: usize) {
    let built = build(layer, span_size, piece);
    let whole = build(layer, span_size, layer.len().max(1));
    assert_eq!(built.as_ref().map(|built| &built.index), whole.as_ref().map(|built| &built.index));
    let Some(Built { index, window_lengths, sink }) = built else { return };
    let Ok(head) = Head::decode(&encode_head(&index, &window_lengths).unwrap()) else {
        panic!("the builder makes what no reader takes")
    };
    assert!(head.index == index);
    let windows_at = head.file_len() as usize - sink.windows.len();
    for span in index.spans.indexes() {
        let range = index.spans.compressed_range(span).unwrap();
        let compressed = &layer[range.start as usize..range.end as usize];
        let window = head.window_range(span).unwrap_or(windows_at as u64..windows_at as u64);
        let window = &sink.windows[window.start as usize - windows_at..window.end as usize - windows_at];
        let decoded = VerifiedSpan::decode(&index, span, compressed, window).unwrap();
        let tar = index.spans.tar_range(span).unwrap();
        assert!(**decoded.bytes() == sink.tar[tar.start as usize..tar.end as usize]);
    }
}

/// A tar that is not compressed.
pub(crate) fn tar(data: &[u8]) {
    let Some((&piece, layer)) = data.split_first() else { return };
    indexed(layer, 512 + u64::from(piece) * 16, usize::from(piece) + 1);
}

/// A layer as it is, gzip or zstd.
pub(crate) fn layer(data: &[u8]) {
    let Some((&piece, layer)) = data.split_first() else { return };
    indexed(layer, 4096, usize::from(piece) + 1);
}

/// A tar that is not compressed, as an image of EROFS.
pub(crate) fn erofs(layer: &[u8]) {
    let Some(Built { index, .. }) = build(layer, 1 << 20, layer.len().max(1)) else { return };
    let tar_size = index.spans.tar_size();
    if let Ok(image) = lone_image(&index.tree, tar_size, [1; 16]) {
        ErofsImage::new(&image).assert_shows(&index.tree, tar_size);
    }
}

/// A span's compressed bytes and its window, of which the window matches its hash.
pub(crate) fn span(data: &[u8]) {
    let Some((&[kind, bits, len, window_len], rest)) = data.split_first_chunk() else { return };
    let window = &rest[..rest.len().min(usize::from(window_len) * 128)];
    let compressed = &rest[window.len()..];
    let reference = WindowRef { len: window.len() as u16, hash: *blake3::hash(window).as_bytes() };
    let (compression, entrance) = match kind % 4 {
        0 => (Compression::None, Entrance::Frame),
        1 => (Compression::Gzip, Entrance::Frame),
        2 => (Compression::Gzip, Entrance::Block { bits: bits % 8, window: reference }),
        _ => (Compression::Zstd, Entrance::Frame),
    };
    let tar_len = u64::from(len) * 100 + 1;
    let spans = vec![Span { compressed_start: 0, entrance, tar_start: 0, hash: [0; 32] }];
    let Some(spans) = SpanTable::new(spans, compressed.len() as u64, tar_len) else { return };
    let index = LayerIndex {
        layer: Digest::sha256([1; 32]),
        diff_id: Digest::sha256([2; 32]),
        compression,
        span_size: tar_len,
        spans,
        tree: Default::default(),
    };
    let file_window = zstd::bulk::compress(window, 1).unwrap();
    let first = index.spans.indexes().next().unwrap();
    let error = VerifiedSpan::decode(&index, first, compressed, &file_window).unwrap_err();
    assert!(matches!(error, SpanError::Corrupt(0) | SpanError::Mismatch(0)), "{error}");
    // And a window that is as hostile.
    let _ = VerifiedSpan::decode(&index, first, compressed, window);
}

/// What either side of the socket receives.
pub(crate) fn link(data: &[u8]) {
    let Some((&side, frames)) = data.split_first() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    runtime.block_on(async {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let sending = async {
            // Fails where the other side has seen enough.
            let _ = theirs.write_all(frames).await;
            drop(theirs);
        };
        let receiving = async {
            if side % 2 == 0 {
                let (mut reader, _writer) = server_frames(ours);
                while let Ok(Some(request)) = receive::<Request>(&mut reader).await {
                    decodes_to_itself(&request);
                }
            } else {
                let (mut reader, _writer) = client_frames(ours);
                while let Ok(Some(reply)) = receive::<Reply>(&mut reader).await {
                    decodes_to_itself(&reply);
                    if let Some(Answer::Image(image)) = reply.answer {
                        let _ = Image::try_from(image);
                    }
                }
            }
        };
        tokio::join!(sending, receiving);
    });
}

fn decodes_to_itself<M: prost::Message + Default + PartialEq>(message: &M) {
    let again = M::decode(&*message.encode_to_vec()).unwrap();
    assert!(again == *message);
}
