//! Blobs as the node's parts ask for them: from the store, or as they arrive.

mod active;
mod blocks;
mod reading;
mod service;

pub(crate) use active::{ActiveBlob, Failure, OriginContext, Phase, Wanted};
pub(crate) use blocks::{BlockBudget, Body, Next, ReadFault};
pub(crate) use reading::reading;
pub(crate) use service::BlobService;
