//! Layers that get no index say why.

use shoal_lazyfs::TarError;
use shoal_lazyfs::build::{BuildError, BuildSink, IndexBuilder};
use shoal_proto::Digest;

use super::samples::{self, Kept};

fn refused(layer: &[u8]) -> BuildError {
    samples::build(layer, 4096).expect_err("no index for this")
}

#[test]
fn a_truncated_layer() {
    let tar = samples::tar(1, 300_000);
    for (layer, trailer) in [(samples::gzip(&tar, 6), 8), (samples::zstd_frames(&tar, 50_000), 4)] {
        for len in [layer.len() - 1, layer.len() - trailer, layer.len() / 2, 5] {
            let error = refused(&layer[..len]);
            assert!(matches!(error, BuildError::Truncated), "{error}");
        }
    }
    let error = refused(&tar[..tar.len() / 2]);
    assert!(matches!(error, BuildError::Tar(TarError::Truncated)), "{error}");
}

#[test]
fn a_corrupt_layer() {
    let tar = samples::tar(1, 300_000);
    for mut layer in [samples::gzip(&tar, 6), samples::zstd_frames(&tar, 50_000)] {
        let middle = layer.len() / 2;
        layer[middle..middle + 64].fill(0xff);
        let error = refused(&layer);
        assert!(matches!(error, BuildError::Corrupt(_) | BuildError::Tar(_)), "{error}");
    }
    // Only the checksum is wrong.
    let mut layer = samples::gzip(&tar, 6);
    let checksum = layer.len() - 8;
    layer[checksum] ^= 1;
    assert!(matches!(refused(&layer), BuildError::Corrupt(_)));
}

#[test]
fn what_follows_the_last_gzip_member() {
    let layer = [samples::gzip(&samples::tar(1, 10_000), 6), vec![0; 10]].concat();
    assert!(matches!(refused(&layer), BuildError::Trailing));
}

#[test]
fn a_long_single_zstd_frame() {
    let tar = samples::tar(2, 17 << 20);
    assert!(matches!(refused(&samples::zstd_frames(&tar, tar.len())), BuildError::NoCut { .. }));
    let short = samples::tar(2, 1 << 20);
    assert!(
        samples::build(&samples::zstd_frames(&short, short.len()), 4096).is_ok(),
        "a short one is one span"
    );
}

/// As some libraries write it at their fastest level.
#[test]
fn a_long_gzip_member_of_one_block() {
    let tar = samples::tar(2, 17 << 20);
    assert!(matches!(refused(&samples::gzip(&tar, 1)), BuildError::NoCut { .. }));
}

#[test]
fn a_layer_of_another_size() {
    let layer = samples::gzip(&samples::tar(1, 10_000), 6);
    let mut builder =
        IndexBuilder::new(Digest::sha256([1; 32]), layer.len() as u64 + 1, 1 << 20, Kept::default()).unwrap();
    builder.push(&layer).unwrap();
    assert!(matches!(builder.finish().unwrap_err(), BuildError::Size { .. }));
}

/// Blocks that hold nothing: a layer may have as many as it likes before the next byte of its tar.
#[test]
fn empty_blocks_without_end() {
    let tar = samples::tar(1, 200_000);
    let whole = samples::gzip(&tar, 0);
    // A gzip header of 10 bytes, and then stored blocks of no bytes.
    let mut builder =
        IndexBuilder::new(Digest::sha256([1; 32]), u64::MAX, samples::SPAN, Kept::default()).unwrap();
    builder.push(&whole[..10]).unwrap();
    let empty = [0, 0, 0, 0xff, 0xff].repeat(10_000);
    let error = (0..10_000).find_map(|_| builder.push(&empty).err()).expect("bounded");
    assert!(matches!(error, BuildError::NoCut { .. }), "{error}");
}

/// Zeros shrink to a thousandth or less. The builder stops before it has seen all of them.
#[test]
fn a_bomb() {
    let zeros = vec![0; 16 << 20];
    for piece in [samples::gzip(&zeros, 6), zstd::bulk::compress(&zeros, 3).unwrap()] {
        let pieces = 100;
        let size = piece.len() as u64 * pieces;
        let mut builder = IndexBuilder::new(Digest::sha256([1; 32]), size, 1 << 20, Vec::new()).unwrap();
        let error = (0..pieces).find_map(|_| builder.push(&piece).err()).expect("bounded");
        assert!(matches!(error, BuildError::TooLarge { .. }), "{error}");
    }
}

struct Full;

impl BuildSink for Full {
    fn tar(&mut self, _bytes: &[u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::StorageFull.into())
    }

    fn window(&mut self, _compressed: &[u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::StorageFull.into())
    }
}

#[test]
fn a_sink_that_is_full() {
    let layer = samples::gzip(&samples::tar(1, 10_000), 6);
    let mut builder = IndexBuilder::new(Digest::sha256([1; 32]), layer.len() as u64, 1 << 20, Full).unwrap();
    assert!(matches!(builder.push(&layer).unwrap_err(), BuildError::Sink(_)));
}

#[test]
fn random_bytes() {
    let mut random = fastrand::Rng::with_seed(1);
    for magic in [&[0x1fu8, 0x8b, 8][..], &[0x28, 0xb5, 0x2f, 0xfd], &[]] {
        for _ in 0..500 {
            let len = random.usize(..3000);
            let noise = (0..len).map(|_| random.u8(..));
            let layer: Vec<u8> = magic.iter().copied().chain(noise).collect();
            let _ = samples::build(&layer, 1000);
        }
    }
}
