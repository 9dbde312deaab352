//! Two builders of one layer make the same index, however its bytes came to them.

use proptest::prelude::*;
use ring::digest::{SHA256, digest};
use shoal_lazyfs::index::{Entrance, LayerIndex, SpanIndex};
use shoal_proto::Digest;

use super::samples::{self, Indexed, SPAN};

#[test]
fn whatever_pieces_the_layer_comes_in() {
    let tar = samples::tar(1, 1_000_000);
    for layer in [
        samples::gzip(&tar, 6),
        samples::gzip_members(&tar, 30_000),
        samples::zstd_frames(&tar, 30_000),
        tar.clone(),
    ] {
        let whole = samples::build(&layer, layer.len()).unwrap();
        for pieces in [1, 7, 512, 4096, 65_537] {
            let other = samples::build(&layer, pieces).unwrap();
            assert_eq!(other.index.id(), whole.index.id(), "pieces of {pieces} bytes");
            assert_eq!(other.sink.windows, whole.sink.windows, "pieces of {pieces} bytes");
        }
    }
}

#[test]
fn the_diff_id_is_that_of_the_uncompressed_tar() {
    let tar = samples::tar(2, 300_000);
    let want = Digest::sha256(digest(&SHA256, &tar).as_ref().try_into().unwrap());
    for layer in [samples::gzip(&tar, 6), samples::zstd_frames(&tar, 30_000), tar.clone()] {
        assert_eq!(samples::build(&layer, 1000).unwrap().index.diff_id, want);
    }
}

#[test]
fn cuts_are_at_the_first_place_from_each_multiple_of_the_span_size_on() {
    let tar = samples::tar(3, 2_000_000);
    let plain = Indexed::new(tar.clone());
    for (number, span) in plain.head.index.spans.iter().enumerate() {
        assert_eq!(span.tar_start, number as u64 * SPAN);
    }
    // Members of 1000 bytes: their starts are the places, in the one case; blocks within them are not, since no
    // member is longer than a block.
    let members = Indexed::new(samples::gzip_members(&tar, 1000));
    for (number, span) in members.head.index.spans.iter().enumerate() {
        assert_eq!(span.tar_start, (number as u64 * SPAN).next_multiple_of(1000));
        assert_eq!(span.entrance, Entrance::Frame);
    }
}

#[test]
fn a_window_holds_only_what_its_span_refers_to() {
    // Random bytes, so that nothing refers to anything, but for one piece that comes again.
    let mut random = fastrand::Rng::with_seed(4);
    let mut content: Vec<u8> = (0..400_000).map(|_| random.u8(..)).collect();
    for at in (1000..content.len() - 20_200).step_by(20_000) {
        content.copy_within(at..at + 100, at + 20_000);
    }
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, "random", &*content).unwrap();
    let indexed = Indexed::new(samples::gzip(&tar.into_inner().unwrap(), 6));
    let windows: Vec<usize> =
        indexed.head.index.spans.indexes().map(|span| indexed.window(span).len()).collect();
    assert!(windows.iter().any(|&len| len > 0), "some span refers back: {windows:?}");
    assert!(windows.iter().all(|&len| len < 600), "windows of 100 to 200 useful bytes: {windows:?}");
    assert_eq!(indexed.read(0, indexed.tar.len() as u64), indexed.tar);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn an_index_survives_its_encoding(seed: u64, size in 0usize..400_000, level in 0u32..10) {
        let tar = samples::tar(seed, size);
        let built = samples::build(&samples::gzip(&tar, level), 5000).unwrap();
        let bytes = built.index.encode();
        let decoded = LayerIndex::decode(&bytes).unwrap();
        prop_assert_eq!(&decoded, &built.index);
        prop_assert_eq!(decoded.encode(), bytes);
    }

    /// Whatever is accepted is the one encoding of what it says.
    #[test]
    fn a_changed_index_is_refused_or_says_something_else(seed in 0u64..20, at: prop::sample::Index, flip in 1u8..) {
        let built = samples::build(&samples::gzip(&samples::tar(seed, 200_000), 6), 5000).unwrap();
        let mut bytes = built.index.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(decoded) = LayerIndex::decode(&bytes) {
            prop_assert_ne!(&decoded, &built.index);
            prop_assert_eq!(decoded.encode(), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_index(mut bytes: Vec<u8>) {
        let _ = LayerIndex::decode(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = 1; // the version
        }
        let _ = LayerIndex::decode(&bytes);
    }
}

#[test]
fn spans_cover_the_tar_without_gaps() {
    let indexed = Indexed::new(samples::gzip(&samples::tar(9, 1_000_000), 6));
    let spans = &indexed.head.index.spans;
    let mut end = 0;
    for span in spans.indexes() {
        let range = spans.tar_range(span).unwrap();
        assert_eq!(range.start, end);
        end = range.end;
    }
    assert_eq!(end, spans.tar_size());
    assert_eq!(spans.covering(0..u64::MAX).count(), spans.len());
    assert_eq!(spans.covering(0..1).collect::<Vec<_>>(), [SpanIndex(0)]);
}
