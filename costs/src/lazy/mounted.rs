//! A file of a mounted image, all of it on this disk, on EROFS and on FUSE alone, beside the same bytes in a plain
//! file, by itself and as containerd shows what it unpacked: through overlayfs.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures_util::FutureExt;
use shoal_lazyfs::build::{DEFAULT_SPAN, IndexBuilder};
use shoal_lazyfs::erofs::{self, ErofsMount};
use shoal_lazyfs::fs::{SlotNumber, TAR_SUFFIX};
use shoal_lazyfs::fuse::{Device, FuseMount};
use shoal_lazyfs::images::Images;
use shoal_lazyfs::index::encode_head;
use shoal_lazyfs::overlay;
use shoal_lazyfs::source::{Given, Giver, Giving, LayerSource, SourceError, Urgency};
use shoal_lazyfs::span_cache::Patience;
use shoal_proto::Digest;

use super::median;
use crate::Bench;
use crate::report::{Aim, progress};
use crate::sample::{self, Layer};

/// Rounds, plain file and mounted one in turn; the median counts.
const ROUNDS: usize = 9;
/// What a program reads at once that reads all.
const PIECE: usize = 1 << 20;
/// What a page fault reads.
const RANDOM: usize = 4096;
const RANDOM_READS: usize = 2000;
/// As much as a program with its libraries has, and quick to read cold.
const MOST: u64 = 512 << 20;
/// A tar's header.
const HEADER: u64 = 512;
/// The plain file, which is the layer's tar: alone in a folder, for overlayfs.
const TAR: &str = "layer.tar";
const PLAIN: &str = "plain";

/// One layer, a tar that is not compressed.
#[derive(Debug)]
struct Source {
    layer: Arc<File>,
    index: Bytes,
}

impl LayerSource for Source {
    fn index<'a>(
        &'a self,
        layer: &'a Digest,
        range: Range<u64>,
        _urgency: Urgency,
        _wrong: &'a [Giver],
    ) -> Giving<'a> {
        let place = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let bytes = place.and_then(|(start, end)| self.index.get(start..end)).map(Bytes::copy_from_slice);
        async move { bytes.map(Given::by_itself).ok_or(SourceError::NoIndex(*layer)) }.boxed()
    }

    fn layer<'a>(
        &'a self,
        layer: &'a Digest,
        range: Range<u64>,
        _urgency: Urgency,
        _wrong: &'a [Giver],
    ) -> Giving<'a> {
        let file = self.layer.clone();
        async move {
            let read = tokio::task::spawn_blocking(move || {
                let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or_default()];
                file.read_exact_at(&mut bytes, range.start).map(|()| Given::by_itself(bytes.into()))
            });
            read.await.ok().and_then(Result::ok).ok_or(SourceError::Unavailable(*layer))
        }
        .boxed()
    }
}

/// Mounts, each over some before it; unmounted when dropped.
struct Mounted {
    at: Vec<PathBuf>,
    served: Option<FuseMount>,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for at in self.at.iter().rev() {
            if let Err(error) = overlay::unmount(at) {
                progress(&format!("  cannot unmount {}: {error}", at.display()));
            }
        }
        if let Some(Err(error)) = self.served.take().map(FuseMount::join) {
            progress(&format!("  the mount ended: {error}"));
        }
    }
}

pub(super) async fn measure(bench: &mut Bench) -> Result<()> {
    bench.report.section("A file of a mounted image, all on this disk, beside a plain file");
    if !rustix::process::geteuid().is_root() || File::open("/dev/fuse").is_err() {
        progress("  needs root and /dev/fuse: skipped");
        return Ok(());
    }
    let size = bench.size.min(MOST);
    let (layer, source) = tokio::task::block_in_place(|| make(bench.folder(), size))?;
    let images = Images::open(&bench.folder().join("cache"), Arc::new(source), Patience::default()).await?;
    let slots = images.add(&[layer.digest]).await?;
    for opened in images.layers(&slots) {
        for span in opened.index().spans.indexes() {
            opened.fill(span).await?;
        }
    }
    let names = ["fuse", "erofs", "over-plain", "over-fuse", "over-erofs"];
    let folders = names.map(|name| bench.folder().join(name));
    for folder in &folders {
        fs::create_dir(folder)?;
    }
    let [fuse, erofs, over_plain, over_fuse, over_erofs] = &folders;
    let device = Device::mount(fuse)?;
    let served = Some(FuseMount::serve(images.fs().clone(), &device)?);
    // From here on the kernel's end is the session's alone: when that ends, so does the mount.
    drop(device);
    let mut mounted = Mounted { at: vec![fuse.clone()], served };
    let compared = tokio::task::block_in_place(|| {
        let [empty, on_fuse] = [fuse.join("e"), fuse.join("0")];
        mount_erofs(&images, fuse, &bench.folder().join("image"), erofs)?;
        mounted.at.push(erofs.clone());
        let plain = bench.folder().join(PLAIN);
        for (layer, over) in [(&plain, over_plain), (&on_fuse, over_fuse), (erofs, over_erofs)] {
            overlay::mount(&[empty.clone(), layer.clone()], over)?;
            mounted.at.push(over.clone());
        }
        let files = [
            ("plain", layer.file.clone(), HEADER),
            ("plain, in overlayfs", over_plain.join(TAR), HEADER),
            ("on FUSE alone", over_fuse.join("file"), 0),
            ("on EROFS", over_erofs.join("file"), 0),
        ];
        compare(bench, &files, size)
    });
    tokio::task::block_in_place(|| drop(mounted));
    compared
}

fn mount_erofs(images: &Images, fuse: &Path, image: &Path, at: &Path) -> Result<()> {
    let placed = images.fs().slot(SlotNumber(0)).context("the layer is not shown")?;
    fs::write(image, erofs::image(&placed, [1; 16])?)?;
    let (image, tar, at) = (image.to_owned(), fuse.join(format!("0{TAR_SUFFIX}")), at.to_owned());
    erofs::mount(&ErofsMount { image, tar, at }).context("mount EROFS on files (Linux 6.12 has it)")
}

/// A tar with one file that does not compress, and its index.
fn make(folder: &Path, size: u64) -> Result<(Layer, Source)> {
    let content = sample::layer(folder.join("content"), size, 11)?;
    let path = folder.join(PLAIN).join(TAR);
    fs::create_dir(folder.join(PLAIN))?;
    let mut tar = tar::Builder::new(File::create(&path)?);
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", File::open(&content.file)?)?;
    tar.into_inner()?.sync_all()?;
    fs::remove_file(&content.file)?;
    let len = fs::metadata(&path)?.len();
    // Nobody checks it: the layer's name may be any.
    let mut builder = IndexBuilder::new(content.digest, len, DEFAULT_SPAN, Vec::new())?;
    let mut file = File::open(&path)?;
    let mut piece = vec![0; PIECE];
    loop {
        let read = file.read(&mut piece)?;
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        builder.push(bytes)?;
    }
    let built = builder.finish()?;
    let mut index = encode_head(&built.index, &built.window_lengths)?;
    index.extend_from_slice(&built.sink);
    let layer = Layer { file: path, digest: content.digest, size: len };
    Ok((layer, Source { layer: Arc::new(file), index: index.into() }))
}

/// What is measured of one of both.
#[derive(Default)]
struct Times {
    /// Of the whole file.
    cold: Vec<Duration>,
    cold_random: Vec<Duration>,
    cached: Vec<Duration>,
    cached_random: Vec<Duration>,
}

fn compare(bench: &mut Bench, files: &[(&str, PathBuf, u64); 4], size: u64) -> Result<()> {
    let mut times = [(); 4].map(|()| Times::default());
    for round in 0..ROUNDS {
        for (times, (_, path, start)) in times.iter_mut().zip(files) {
            drop_caches()?;
            let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
            times.cold_random.extend(random(&file, *start, size, round as u64)?);
            drop(file);
            drop_caches()?;
            let file = File::open(path)?;
            times.cold.push(sequential(&file, *start, size)?);
            times.cached.push(sequential(&file, *start, size)?);
            times.cached_random.extend(random(&file, *start, size, round as u64)?);
        }
    }
    let gigabytes = size as f64 / 1e9;
    let mut tell = |what: &str, of: fn(&mut Times) -> &mut Vec<Duration>, all: bool, is_cold: bool| {
        let medians = times.each_mut().map(|times| median(of(times)));
        for ((whose, ..), time) in files.iter().zip(medians) {
            let (value, unit) = if all { (gigabytes / time * 1e3, "GB/s") } else { (time * 1e3, "us") };
            bench.report.add(format!("{what}, {whose}"), value, unit);
        }
        let [plain, unpacked, on_fuse, on_erofs] = medians;
        bench.report.add(format!("{what}, time on FUSE alone / plain"), on_fuse / plain, "x");
        // Cached, the kernel alone answers: what is to be as fast is what containers have otherwise.
        let (whose, native, aim) =
            if is_cold { ("plain", plain, 2.0) } else { ("plain in overlayfs", unpacked, 1.25) };
        let ratio = on_erofs / native;
        bench.report.add_aimed(format!("{what}, time on EROFS / {whose}"), ratio, "x", Aim::Below(aim));
    };
    tell("cold, all of it", |times| &mut times.cold, true, true);
    tell("cold, 4 KiB at random", |times| &mut times.cold_random, false, true);
    tell("page cache, all of it", |times| &mut times.cached, true, false);
    tell("page cache, 4 KiB at random", |times| &mut times.cached_random, false, false);
    Ok(())
}

fn drop_caches() -> Result<()> {
    rustix::fs::sync();
    let mut file = File::options().write(true).open("/proc/sys/vm/drop_caches")?;
    file.write_all(b"3").context("drop the page cache")
}

fn sequential(file: &File, start: u64, size: u64) -> Result<Duration> {
    let mut piece = vec![0; PIECE];
    let begun = Instant::now();
    for at in (start..start + size).step_by(PIECE) {
        let len = usize::try_from(start + size - at).unwrap_or(PIECE).min(PIECE);
        file.read_exact_at(piece.get_mut(..len).unwrap_or_default(), at)?;
    }
    Ok(begun.elapsed())
}

fn random(file: &File, start: u64, size: u64, seed: u64) -> Result<Vec<Duration>> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut piece = [0; RANDOM];
    let read = |_| {
        let at = start + random.u64(..size / RANDOM as u64) * RANDOM as u64;
        let begun = Instant::now();
        file.read_exact_at(&mut piece, at)?;
        Ok(begun.elapsed())
    };
    (0..RANDOM_READS).map(read).collect()
}
