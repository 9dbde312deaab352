//! Blobs as the node's parts ask for them: from the store, or as they arrive.

mod active;
mod blocks;
mod context;
mod reading;
mod service;
mod through;

pub(crate) use active::{ActiveBlob, Failure, Phase, Wanted};
pub(crate) use blocks::{BlockBudget, Pieces, ReadFault};
pub(crate) use context::OriginContext;
pub(crate) use reading::reading;
pub(crate) use service::{BlobService, PassThrough};
