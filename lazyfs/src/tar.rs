//! A layer's tar: read as it streams by, applied as containerd applies it to an empty folder.

mod apply;
mod draft;
mod entry;
mod error;
mod path;
mod stream;

pub use error::TarError;
pub(crate) use stream::TarStream;
