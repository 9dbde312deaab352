//! Lazy layers: a layer's index (what its tar holds, cut into spans that are fetched and checked one by one), the
//! cache of its uncompressed tar, and the filesystem over it. Knows spans and blobs' ranges, never peers.

pub mod build;
pub mod chain;
pub mod erofs;
pub mod fill;
pub mod fs;
pub mod fuse;
pub mod images;
pub mod index;
mod inflate;
pub mod layer_folders;
pub mod link;
mod lock;
pub mod mountinfo;
pub mod overlay;
pub mod snapshots;
pub mod source;
mod span;
pub mod span_cache;
mod tar;
pub mod tree;

pub use span::{SpanError, VerifiedSpan};
pub use tar::TarError;
