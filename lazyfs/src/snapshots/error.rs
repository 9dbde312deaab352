use std::io;
use std::path::PathBuf;

use tonic::{Code, Status};

use super::filter::FilterError;
use super::rows::RowsError;

/// Why a call fails, in the terms that containerd expects.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("there is no snapshot {0:?}")]
    NotFound(String),
    #[error("there is a snapshot {0:?} already")]
    Exists(String),
    #[error("the parent {0:?} is not committed")]
    OpenParent(String),
    #[error("the snapshot {0:?} is not active")]
    NotActive(String),
    #[error("the snapshot {0:?} has children")]
    HasChildren(String),
    #[error("a snapshot needs a name")]
    NoName,
    #[error("{0:?} of a snapshot cannot be changed")]
    Immutable(String),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("the layer {layer} cannot be shown at present: {why}")]
    NotShown { layer: String, why: String },
    #[error("cannot use {}: {error}", path.display())]
    Folder { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Rows(#[from] RowsError),
    #[error("shutting down")]
    ShutDown,
}

impl From<SnapshotError> for Status {
    fn from(error: SnapshotError) -> Self {
        let code = match &error {
            SnapshotError::NotFound(_) => Code::NotFound,
            SnapshotError::Exists(_) => Code::AlreadyExists,
            SnapshotError::NotActive(_) | SnapshotError::HasChildren(_) => Code::FailedPrecondition,
            SnapshotError::OpenParent(_)
            | SnapshotError::NoName
            | SnapshotError::Immutable(_)
            | SnapshotError::Filter(_) => Code::InvalidArgument,
            SnapshotError::NotShown { .. } | SnapshotError::ShutDown => Code::Unavailable,
            SnapshotError::Folder { .. } | SnapshotError::Rows(_) => Code::Internal,
        };
        Self::new(code, error.to_string())
    }
}
