//! Lazy layers: a layer's index (what its tar holds, cut into spans that are fetched and checked one by one), the
//! cache of its uncompressed tar, and the filesystem over it. Knows spans and blobs' ranges, never peers.

pub mod build;
pub mod index;
mod inflate;
pub mod link;
pub mod source;
mod span;
mod tar;
pub mod tree;

pub use span::{SpanError, VerifiedSpan};
pub use tar::TarError;
