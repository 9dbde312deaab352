//! Bytes that are not what the index names never come out as a span.

use shoal_lazyfs::index::{HEADER_LEN, Head, Header};
use shoal_lazyfs::{SpanError, VerifiedSpan};

use super::samples::{self, Indexed};

fn layers() -> Vec<Indexed> {
    let tar = samples::tar(1, 600_000);
    let layers = [
        samples::gzip(&tar, 6),
        samples::gzip_members(&tar, 50_000),
        samples::zstd_frames(&tar, 50_000),
        tar,
    ];
    layers.into_iter().map(Indexed::new).collect()
}

#[test]
fn flipped_bits_of_the_layer_are_found() {
    let mut random = fastrand::Rng::with_seed(3);
    for indexed in layers() {
        for span in indexed.head.index.spans.indexes() {
            let want = indexed.span(span).unwrap();
            for _ in 0..40 {
                let mut bytes = indexed.compressed(span).to_vec();
                let at = random.usize(..bytes.len());
                bytes[at] ^= 1 << random.u8(..8);
                // A bit that does not matter, such as one of a member's header, may still give the right bytes.
                if let Ok(got) = VerifiedSpan::decode(&indexed.head.index, span, &bytes, indexed.window(span))
                {
                    assert_eq!(got, want);
                }
            }
        }
    }
}

#[test]
fn flipped_bits_of_windows_are_found() {
    let indexed = layers().remove(0);
    let mut random = fastrand::Rng::with_seed(4);
    let mut tried = 0;
    for span in indexed.head.index.spans.indexes().filter(|&span| indexed.head.window_range(span).is_some()) {
        let want = indexed.span(span).unwrap();
        for _ in 0..40 {
            let mut window = indexed.window(span).to_vec();
            let at = random.usize(..window.len());
            window[at] ^= 1 << random.u8(..8);
            match VerifiedSpan::decode(&indexed.head.index, span, indexed.compressed(span), &window) {
                Ok(got) => assert_eq!(got, want),
                Err(error) => assert_eq!(error, SpanError::Window(span.0)),
            }
            tried += 1;
        }
        let missing = VerifiedSpan::decode(&indexed.head.index, span, indexed.compressed(span), &[]);
        assert_eq!(missing, Err(SpanError::Window(span.0)));
    }
    assert!(tried > 0, "no span has a window");
}

#[test]
fn too_few_and_too_many_bytes_are_refused() {
    for indexed in layers() {
        for span in indexed.head.index.spans.indexes() {
            let (bytes, window) = (indexed.compressed(span), indexed.window(span));
            for wrong in [&bytes[1..], &[bytes, b"x"].concat(), &[]] {
                let got = VerifiedSpan::decode(&indexed.head.index, span, wrong, window);
                assert_eq!(got, Err(SpanError::Length(span.0)));
            }
        }
    }
}

#[test]
fn another_spans_bytes_are_refused() {
    let indexed = layers().remove(3);
    let spans: Vec<_> = indexed.head.index.spans.indexes().collect();
    let got = VerifiedSpan::decode(&indexed.head.index, spans[0], indexed.compressed(spans[1]), &[]);
    assert_eq!(got, Err(SpanError::Mismatch(0)));
    let bytes = indexed.span(spans[1]).unwrap().bytes().clone();
    assert_eq!(VerifiedSpan::check(&indexed.head.index, spans[0], bytes), Err(SpanError::Mismatch(0)));
}

/// A forged index can only name other hashes; the head must be the one that its identity names.
#[test]
fn a_changed_head_is_refused_or_has_another_identity() {
    let mut random = fastrand::Rng::with_seed(5);
    for indexed in layers() {
        let first: &[u8; HEADER_LEN] = indexed.file.first_chunk().unwrap();
        let head_len = Header::decode(first).unwrap().head_len() as usize;
        for _ in 0..300 {
            let mut bytes = indexed.file[..head_len].to_vec();
            let at = random.usize(..bytes.len());
            bytes[at] ^= 1 << random.u8(..8);
            if let Ok(head) = Head::decode(&bytes) {
                // Only the list of windows' lengths is not covered: a wrong one leads to a window that fails.
                assert_eq!(head.id, indexed.head.id);
                assert_eq!(head.index, indexed.head.index);
            }
        }
        for len in [0, 1, HEADER_LEN, head_len - 1] {
            assert!(Head::decode(&indexed.file[..len]).is_err());
        }
    }
}

#[test]
fn a_head_that_claims_much_allocates_little() {
    let mut bytes = vec![0; HEADER_LEN];
    bytes[..8].copy_from_slice(b"SHOALIX1");
    bytes[48..56].copy_from_slice(&(200u64 << 20).to_le_bytes());
    assert!(Head::decode(&bytes).is_err());
    bytes[48..56].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(Head::decode(&bytes).is_err());
}
