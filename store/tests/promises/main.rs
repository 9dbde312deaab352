//! What the store promises, one file each. Loss of power is in `src/power_loss.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod blobs;

mod a_full_disk_is_an_answer;
mod an_index_goes_with_its_layer;
mod capacity_is_never_exceeded;
mod corruption_is_found_and_repaired;
mod facts_are_kept_and_bounded;
mod it_behaves_like_a_map_of_chunks;
mod kill_loses_no_durable_chunk;
mod one_daemon_per_folder;
mod only_the_digest_completes_a_blob;
mod what_is_written_can_be_read;
