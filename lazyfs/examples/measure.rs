//! What the index of a layer costs: `cargo run --release --example measure -- LAYER [SPAN-BYTES]`.
//!
//! Prints the time of plain inflating with both digests, the time with the index, the index's size and what a
//! read of one random byte fetches.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use shoal_lazyfs::VerifiedSpan;
use shoal_lazyfs::build::{Built, DEFAULT_SPAN, IndexBuilder};
use shoal_lazyfs::index::{Head, SpanIndex, encode_head};
use shoal_proto::Digest;

type Error = Box<dyn std::error::Error>;

/// What a download hands over at once.
const PIECE: usize = 1 << 20;

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().try_into().unwrap_or_default()
}

/// Inflates and computes both digests: what every puller does.
fn floor(layer: &[u8]) -> Result<Duration, Error> {
    let start = Instant::now();
    std::hint::black_box(sha256(layer));
    let mut reader: Box<dyn std::io::Read> = match layer {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(layer)),
        [0x28, 0xb5, ..] => Box::new(zstd::Decoder::new(layer)?),
        _ => Box::new(layer),
    };
    let mut diff_id = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let len = reader.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..len).filter(|bytes| !bytes.is_empty()) else { break };
        diff_id.update(bytes);
    }
    std::hint::black_box(diff_id.finish());
    Ok(start.elapsed())
}

fn build(layer: &[u8], span: u64) -> Result<(Duration, Built<Vec<u8>>), Error> {
    let start = Instant::now();
    let digest = Digest::sha256(sha256(layer));
    let mut builder = IndexBuilder::new(digest, layer.len() as u64, span, Vec::new())?;
    for piece in layer.chunks(PIECE) {
        builder.push(piece)?;
    }
    let built = builder.finish()?;
    Ok((start.elapsed(), built))
}

fn main() -> Result<(), Error> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: measure LAYER [SPAN-BYTES]")?;
    let span = args.next().map_or(Ok(DEFAULT_SPAN), |span| span.parse())?;
    let layer = std::fs::read(&path)?;

    let (mut floors, mut builds) = (Vec::new(), Vec::new());
    let mut last = None;
    for _ in 0..3 {
        floors.push(floor(&layer)?);
        let (time, built) = build(&layer, span)?;
        builds.push(time);
        last = Some(built);
    }
    let (Some(built), Some(floor), Some(time)) = (last, floors.iter().min(), builds.iter().min()) else {
        return Ok(());
    };
    let head = encode_head(&built.index, &built.window_lengths)?;
    let index_len = head.len() + built.sink.len();
    let start = Instant::now();
    let decoded = Head::decode(&head)?;
    let load = start.elapsed();
    let spans = &decoded.index.spans;
    let share = |bytes: usize| bytes as f64 * 100.0 / layer.len() as f64;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{path}: layer {} tar {} spans {} nodes {}",
        layer.len(),
        spans.tar_size(),
        spans.len(),
        decoded.index.tree.len()
    )?;
    writeln!(
        out,
        "  inflate + digests {:.3} s, with index {:.3} s, ratio {:.3}",
        floor.as_secs_f64(),
        time.as_secs_f64(),
        time.as_secs_f64() / floor.as_secs_f64()
    )?;
    writeln!(
        out,
        "  index {index_len} ({:.2} %): toc {} (loads in {:.1} ms), windows {} ({:.2} %)",
        share(index_len),
        head.len(),
        load.as_secs_f64() * 1e3,
        built.sink.len(),
        share(built.sink.len())
    )?;
    let windows = |span: SpanIndex| {
        let range = decoded.window_range(span).unwrap_or_default();
        let at = |offset: u64| usize::try_from(offset).unwrap_or(0).saturating_sub(head.len());
        built.sink.get(at(range.start)..at(range.end)).unwrap_or_default()
    };
    let mut times = Vec::new();
    let mut fetched = Vec::new();
    for span in spans.indexes() {
        let range = spans.compressed_range(span).ok_or("a span without a range")?;
        let bytes = layer.get(usize::try_from(range.start)?..usize::try_from(range.end)?).ok_or("range")?;
        let window = windows(span);
        let start = Instant::now();
        VerifiedSpan::decode(&decoded.index, span, bytes, window)?;
        times.push(start.elapsed());
        fetched.push(bytes.len() + window.len());
    }
    times.sort();
    fetched.sort_unstable();
    writeln!(
        out,
        "  one span: decode and check p50 {:.2} ms max {:.2} ms; fetch p50 {} max {}",
        times.get(times.len() / 2).map_or(0.0, |time| time.as_secs_f64() * 1e3),
        times.last().map_or(0.0, |time| time.as_secs_f64() * 1e3),
        fetched.get(fetched.len() / 2).unwrap_or(&0),
        fetched.last().unwrap_or(&0)
    )?;
    Ok(())
}
