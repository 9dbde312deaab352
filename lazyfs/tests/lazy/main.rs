//! What the cache of spans and the filesystem over it promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]

mod bounded_disk;
#[path = "../folder/mod.rs"]
mod folder;
mod full_disk;
mod image;
mod layers_become_whole;
mod long_heads;
mod mounted_image_is_the_unpacked_one;
mod on_erofs;
mod only_the_claimed_index;
mod readers_under_load;
mod removed_layers;
#[path = "../layers/samples.rs"]
#[allow(dead_code, reason = "shared with the tests of indexes")]
mod samples;
mod served;
mod source;
mod spans_are_fetched_once_and_checked;
mod spans_outlast_the_process;

/// As fast as it comes.
async fn fill(layers: Vec<std::sync::Arc<shoal_lazyfs::span_cache::Layer>>, pace: shoal_lazyfs::fill::Pace) {
    shoal_lazyfs::fill::fill(layers, pace, &shoal_lazyfs::fill::FillRate::default()).await;
}

/// What a read gives once it is tried again: one that nobody could serve is not at once.
async fn served_again<E>(read: impl AsyncFn() -> Result<Vec<u8>, E>) -> Vec<u8> {
    let again = async {
        loop {
            if let Ok(bytes) = read().await {
                return bytes;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), again).await.expect("it is tried again")
}
