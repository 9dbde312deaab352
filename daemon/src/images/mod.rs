//! The mirror's semantics: who may read what, how fresh a tag is, and how manifests and blobs are found.

mod access;
mod backend;
mod deferred;
mod facts;
mod identity;
mod manifest;
mod outage;
mod refusals;
mod resolve;
mod share;
mod shown;
mod tags;

pub(crate) use access::Access;
pub(crate) use backend::{ManifestAlone, Mirror};
pub(crate) use facts::Facts;
pub(crate) use resolve::Resolver;
pub(crate) use share::{is_open, is_shared};
pub(crate) use tags::Tags;
