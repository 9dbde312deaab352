//! The index of a layer: what its tar holds and how any part of it is read without the rest.

mod codec;
mod container;
mod spans;
mod toc;
mod tree_codec;

pub(crate) use container::{WindowCompressor, decompress_window};
pub(crate) use toc::EMPTY_WINDOW;

pub use codec::DecodeError;
pub use container::{HEADER_LEN, Head, HeadError, Header, encode_head};
pub use spans::{Entrance, Hash, MAX_SPAN, MAX_SPAN_COMPRESSED, Span, SpanIndex, SpanTable, WindowRef};
pub use toc::{Compression, IndexId, LayerIndex};
