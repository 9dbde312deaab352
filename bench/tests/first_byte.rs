//! When clients get their first byte: as from real nodes.
// Tests may fail loudly.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod simulation;

use simulation::*;

#[test]
fn a_body_that_is_complete_soon_comes_with_its_digest_and_a_longer_one_when_the_pace_is_known() {
    let first = |line: &str| {
        let outcome = outcome(line);
        (outcome.first_chunk_last_s.unwrap(), outcome.mode.first_byte_last_s.unwrap(), outcome.mode.last_s)
    };
    // 128 MiB take 22 s on such lines, 16 MiB 3 s.
    let line = "--nodes 16 --link 50mbit --latency 25ms";
    let (chunk, byte, last) = first(&format!("{line} --size 128MiB"));
    assert!(chunk <= byte && (1.0..1.4).contains(&byte) && last > 20.0, "{chunk}, {byte}, {last}");
    let (chunk, byte, last) = first(&format!("{line} --size 16MiB"));
    assert!(chunk < byte && (byte - last).abs() < 1e-9 && last < 10.0, "{chunk}, {byte}, {last}");
}
