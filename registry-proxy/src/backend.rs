//! What the proxy needs of the node behind it.

use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use shoal_proto::{Digest, Reference, RegistryName, Repository};

use crate::{Accept, Caller, Refusal};

/// Answers for images, whatever registry they come from.
///
/// Every method that takes a [`Caller`] also authorises: it answers only what this caller may have.
pub trait Backend: Send + Sync + 'static {
    type Blob: Blob;

    /// The registry that a request means when it names none.
    fn default_registry(&self) -> RegistryName;

    /// Whether requests may name this registry, and under which name it is known here (`index.docker.io`
    /// may be `docker.io`). The allow-list is the backend's; a name that fails here is never connected to.
    fn admit(&self, registry: &RegistryName) -> Result<RegistryName, Refusal>;

    /// The manifest that a tag or digest names. With `head` the bytes are not needed.
    fn manifest(
        &self,
        image: &ImageRef,
        accept: &Accept,
        caller: &Caller,
        head: bool,
    ) -> impl Future<Output = Result<Manifest, Refusal>> + Send;

    /// Finds a blob and its size. Nothing is read before [`Blob::read`] is called.
    fn blob(
        &self,
        blob: &BlobRef,
        caller: &Caller,
    ) -> impl Future<Output = Result<Self::Blob, Refusal>> + Send;

    /// Asks the upstream for what is never cached.
    fn pass(&self, pass: &Pass, caller: &Caller) -> impl Future<Output = Result<Passed, Refusal>> + Send;
}

/// A blob that was found.
pub trait Blob: Send + 'static {
    /// Length in bytes.
    fn size(&self) -> u64;

    /// Where the first byte would come from, as far as is known without reading.
    fn source(&self) -> Source;

    /// The bytes of `range` (within the size), in order, verified. The response is cut unless they are
    /// exactly as many as the range has. The stream is polled only as fast as the client reads, and dropped
    /// when the client goes away. Pieces should be small against [`crate::ProxyConfig::max_connections`]:
    /// each connection holds one or two of them.
    fn read(self, range: Range<u64>) -> impl Stream<Item = Result<Piece, ReadFailure>> + Send + 'static;
}

/// Some bytes of a blob and where they came from.
#[derive(Clone, Debug)]
pub struct Piece {
    pub bytes: Bytes,
    pub source: Source,
}

/// Why a blob's bytes stop. The client sees the connection break, or, if nothing was sent yet, the refusal.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadFailure {
    /// No part of the cluster, nor the origin, can deliver the bytes now.
    #[error("the bytes cannot be had: {0}")]
    Unavailable(String),
    /// The bytes that came do not have the blob's digest.
    #[error("the bytes do not match the digest: {0}")]
    Corrupt(String),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// Where bytes came from: the header `X-Shoal-Source`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    Local,
    Swarm,
    Origin,
}

impl Source {
    pub const ALL: [Self; 3] = [Self::Local, Self::Swarm, Self::Origin];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Swarm => "swarm",
            Self::Origin => "origin",
        }
    }
}

/// A manifest's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageRef {
    pub registry: RegistryName,
    pub repository: Repository,
    pub reference: Reference,
}

/// A blob's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BlobRef {
    pub registry: RegistryName,
    pub repository: Repository,
    pub digest: Digest,
}

/// A manifest that was resolved.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: Digest,
    /// As the upstream declared it.
    pub media_type: String,
    /// Length in bytes.
    pub size: u64,
    /// `size` bytes that match `digest`; may be absent where only the head was asked for.
    pub bytes: Option<Bytes>,
    pub source: Source,
    /// How old the answer is, if the upstream could not be asked: the header `X-Shoal-Stale`.
    pub stale: Option<Duration>,
}

/// A question that only the upstream can answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    pub registry: RegistryName,
    pub repository: Repository,
    pub kind: PassKind,
    /// The query to send upstream, encoded, without `?` and without `ns`; empty for none.
    pub query: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassKind {
    /// `tags/list`
    Tags,
    /// `referrers/<digest>`
    Referrers(Digest),
}

/// An upstream's successful answer. Its texts are not trusted.
#[derive(Clone, Debug, Default)]
pub struct Passed {
    pub content_type: String,
    /// The upstream's `Link` header; it is rewritten to lead to this mirror.
    pub link: Option<String>,
    /// The upstream's `OCI-Filters-Applied` header.
    pub filters_applied: Option<String>,
    /// The whole body; the backend bounds its length.
    pub body: Bytes,
}
