//! Any range that is read through spans is the range of the plain tar, whatever compressed the layer.

use super::samples::{self, Indexed};

fn check(name: &str, layer: Vec<u8>, tar: &[u8], min_spans: usize) {
    let indexed = Indexed::new(layer);
    assert_eq!(indexed.tar, tar, "{name}");
    let spans = indexed.head.index.spans.len();
    assert!(spans >= min_spans, "{name}: only {spans} spans");
    let size = tar.len() as u64;
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..100 {
        let start = random.u64(..size);
        let end = start + random.u64(..300_000);
        let want = &tar[start as usize..end.min(size) as usize];
        assert!(indexed.read(start, end) == want, "{name}: bytes {start} to {end}");
    }
    assert!(indexed.read(0, size) == tar, "{name}");
    assert!(indexed.read(size, size + 1).is_empty() && indexed.read(5, 5).is_empty());
}

#[test]
fn of_gzip_at_every_level() {
    let tar = samples::tar(1, 3_000_000);
    // This compressor's level 1 writes blocks of megabytes.
    for (level, min_spans) in [(0, 10), (1, 2), (2, 10), (6, 10), (9, 10)] {
        check(&format!("gzip -{level}"), samples::gzip(&tar, level), &tar, min_spans);
    }
}

#[test]
fn of_concatenated_gzip_members() {
    let tar = samples::tar(2, 3_000_000);
    for len in [100, 40_000, 1_000_000] {
        check(&format!("members of {len}"), samples::gzip_members(&tar, len), &tar, 10);
    }
}

#[test]
fn of_zstd_frames() {
    let tar = samples::tar(3, 3_000_000);
    for len in [1000, 100_000, 1_000_000] {
        check(&format!("frames of {len}"), samples::zstd_frames(&tar, len), &tar, 3);
    }
}

#[test]
fn of_a_plain_tar() {
    let tar = samples::tar(4, 1_000_000);
    check("plain", tar.clone(), &tar, 10);
}

#[test]
fn of_what_common_programs_write() {
    let tar = samples::tar(5, 4_000_000);
    let mut tried = 0;
    for (program, args) in [
        ("gzip", &["-c"] as &[&str]),
        ("gzip", &["-1", "-c"]),
        ("pigz", &["-c", "-b", "64", "-p", "3"]),
        ("pigz", &["-c", "-i"]),
        ("zopfli", &["-c", "/dev/stdin"]),
    ] {
        if let Some(layer) = samples::compressed_by(program, args, &tar) {
            check(&format!("{program} {args:?}"), layer, &tar, 5);
            tried += 1;
        }
    }
    assert!(tried >= 2, "gzip is missing");
}

/// A gzip member whose block boundary at 64 KiB, where a span begins, is followed by more empty blocks than a
/// builder keeps to find out what the span refers to; and then by references to what came before.
#[test]
fn after_many_empty_blocks() {
    let mut random = fastrand::Rng::with_seed(6);
    let mut content: Vec<u8> = (0..400_000).map(|_| random.u8(..)).collect();
    let cut = samples::SPAN as usize - 512; // the header
    content.copy_within(cut - 20_000..cut, cut);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, "random", &*content).unwrap();
    let tar = tar.into_inner().unwrap();
    let (head, tail) = tar.split_at(samples::SPAN as usize);
    let mut deflate = flate2::Compress::new(flate2::Compression::new(6), false);
    let mut blocks = Vec::with_capacity(1 << 20);
    deflate.compress_vec(head, &mut blocks, flate2::FlushCompress::Sync).unwrap();
    blocks.extend([0, 0, 0, 0xff, 0xff].repeat(20_000));
    deflate.compress_vec(tail, &mut blocks, flate2::FlushCompress::Finish).unwrap();
    let mut checksum = flate2::Crc::new();
    checksum.update(&tar);
    let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let trailer = [checksum.sum().to_le_bytes(), checksum.amount().to_le_bytes()].concat();
    let layer = [&header[..], &blocks, &trailer].concat();
    check("empty blocks", layer, &tar, 4);
}
