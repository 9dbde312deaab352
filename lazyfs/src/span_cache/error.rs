use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use shoal_proto::Digest;

use crate::SpanError;
use crate::index::HeadError;
use crate::source::SourceError;

/// Why a layer cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    #[error("cannot use the folder {}: {error}", folder.display())]
    Folder { folder: PathBuf, error: io::Error },
    #[error("the folder {} is used by another process", .0.display())]
    InUse(PathBuf),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error("the index that came for {0} is that of another layer")]
    OtherLayer(Digest),
    #[error("the index that came for {0} is not the one that was vouched for")]
    OtherIndex(Digest),
    #[error("the index of {0} says of its tar what is not so")]
    Revoked(Digest),
    #[error("there is no sound index of {0} on this disk")]
    NotHere(Digest),
    #[error("shutting down")]
    ShutDown,
}

impl CacheError {
    /// Whether what came is wrong: somebody else may give what is right.
    pub(super) fn is_wrong(&self) -> bool {
        matches!(self, Self::Head(_) | Self::OtherLayer(_) | Self::OtherIndex(_))
    }
}

/// Why bytes of a layer's tar cannot be read now. The next read tries again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot fetch span {span}: {error}")]
    Source { span: u32, error: SourceError },
    #[error("{layer}: what came for it is wrong: {error}")]
    Span { layer: Digest, error: SpanError },
    #[error("{layer}: cannot read its tar on this disk: {error}")]
    Disk { layer: Digest, error: Arc<io::Error> },
    #[error("{layer}: its index says of its tar what is not so")]
    Revoked { layer: Digest },
    #[error("{layer}: shutting down")]
    ShutDown { layer: Digest },
}

/// Why a layer cannot be made whole.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FillError {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error("the disk takes no more")]
    DiskFull,
    #[error("the cache's bound is reached, and all that is in it is used")]
    NoRoom,
    #[error("its tar has the DiffID {got}, and its index is used no more")]
    DiffId { got: Digest },
    #[error("its tar has other files than its index says, and the index is used no more")]
    Tree,
}
