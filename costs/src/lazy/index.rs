//! What the index of a layer costs, beside inflating it and both SHA-256, which every puller does.

use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flate2::read::MultiGzDecoder;
use shoal_lazyfs::VerifiedSpan;
use shoal_lazyfs::build::{Built, DEFAULT_SPAN, IndexBuilder};
use shoal_lazyfs::index::{Head, encode_head};
use shoal_proto::Algorithm;
use shoal_store::ContentHasher;

use super::machine_layer::MachineLayer;
use super::median;
use crate::Bench;
use crate::report::Aim;
use crate::usage::thread_cpu_seconds;

/// Rounds of each, in turn; the median counts.
const ROUNDS: usize = 7;
/// What a download hands over at once.
const PIECE: usize = 1 << 20;

pub(super) fn measure(bench: &mut Bench, of: &MachineLayer) -> Result<()> {
    bench.report.section("The index of a layer of this machine's files, gzip");
    let layer = std::fs::read(&of.layer.file)?;
    let (mut floors, mut builds, mut last) = (Vec::new(), Vec::new(), None);
    for _ in 0..ROUNDS {
        floors.push(timed(|| floor(&layer))?.0);
        let (time, built) = timed(|| build(of, &layer))?;
        builds.push(time);
        last = Some(built);
    }
    let built = last.context("no round")?;
    let head = encode_head(&built.index, &built.window_lengths)?;
    let (load, decoded) = timed(|| Ok(Head::decode(&head)?))?;
    let (floor, build) = (median(&mut floors), median(&mut builds));
    let report = &mut bench.report;
    report.add("layer", layer.len() as f64 / 1e6, "MB");
    report.add("inflate and both SHA-256", floor, "ms CPU");
    report.add("the same and the index", build, "ms CPU");
    report.add_aimed("with / without the index", build / floor, "x", Aim::Below(1.25));
    let entries = decoded.index.tree.len();
    let index = head.len() + built.sink.len();
    let allowed = layer.len() as f64 * 0.025 + 64.0 * entries as f64;
    report.add("index, share of the layer", index as f64 * 100.0 / layer.len() as f64, "%");
    report.add("windows, share of the layer", built.sink.len() as f64 * 100.0 / layer.len() as f64, "%");
    report.add_aimed(
        "index / (2.5 % of the layer + 64 bytes per entry)",
        index as f64 / allowed,
        "x",
        Aim::Below(1.0),
    );
    report.add(format!("head of {entries} entries, decoded"), load.as_secs_f64() * 1e3, "ms CPU");
    let mut decodes = decodes(&layer, &decoded, &built.sink)?;
    report.add("one span, decoded and checked, median", median(&mut decodes), "ms CPU");
    Ok(())
}

/// The time that this thread was busy.
fn timed<T>(work: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
    let before = thread_cpu_seconds()?;
    let done = work()?;
    Ok((Duration::from_secs_f64(thread_cpu_seconds()? - before), done))
}

fn floor(layer: &[u8]) -> Result<()> {
    std::hint::black_box(ContentHasher::digest(Algorithm::Sha256, layer));
    let mut reader = MultiGzDecoder::new(layer);
    let mut diff_id = ContentHasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let len = reader.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..len).filter(|bytes| !bytes.is_empty()) else { break };
        diff_id.update(bytes);
    }
    std::hint::black_box(diff_id.finish());
    Ok(())
}

fn build(of: &MachineLayer, layer: &[u8]) -> Result<Built<Vec<u8>>> {
    let digest = ContentHasher::digest(Algorithm::Sha256, layer);
    let mut builder = IndexBuilder::new(digest, of.layer.size, DEFAULT_SPAN, Vec::new())?;
    for piece in layer.chunks(PIECE) {
        builder.push(piece)?;
    }
    Ok(builder.finish()?)
}

/// How long each span takes.
fn decodes(layer: &[u8], head: &Head, windows: &[u8]) -> Result<Vec<Duration>> {
    let windows_at = head.file_len() - windows.len() as u64;
    let spans = &head.index.spans;
    let decode = |span| {
        let range = spans.compressed_range(span).context("a span without a range")?;
        let bytes =
            layer.get(usize::try_from(range.start)?..usize::try_from(range.end)?).context("a range")?;
        let window = head.window_range(span).unwrap_or(windows_at..windows_at);
        let window = usize::try_from(window.start - windows_at)?..usize::try_from(window.end - windows_at)?;
        let window = windows.get(window).context("a window")?;
        let begun = Instant::now();
        VerifiedSpan::decode(&head.index, span, bytes, window)?;
        Ok(begun.elapsed())
    };
    spans.indexes().map(decode).collect()
}
