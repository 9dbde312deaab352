//! What passes over the socket, as protobuf.

use bytes::Bytes;

/// Spoken in the first request and its answer. Another version of the protocol has another number.
pub const VERSION: u32 = 1;

/// In [`Range`]: bytes that the daemon had on its disk and checked.
pub const CHECKED: u64 = 0;
/// In [`Range`]: bytes of the registry. Other numbers are members'.
pub const ORIGIN: u64 = 1;

/// From the filesystem to the daemon.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Request {
    /// Chosen by who asks; the answer carries it.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(oneof = "Ask", tags = "2, 3, 4, 5, 6, 7")]
    pub ask: Option<Ask>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Ask {
    /// The first request of a connection.
    #[prost(message, tag = "2")]
    Hello(Hello),
    #[prost(message, tag = "3")]
    Resolve(ImageRef),
    #[prost(message, tag = "4")]
    Range(RangeRef),
    /// Nobody waits any more for the request of this number; there is no answer to this one.
    #[prost(message, tag = "5")]
    Cancel(Cancel),
    #[prost(message, tag = "6")]
    Revoke(Revoke),
    /// What the filesystem does, for whoever asks the daemon. Told again and again; there is no answer.
    #[prost(message, tag = "7")]
    Report(Report),
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Hello {
    #[prost(uint32, tag = "1")]
    pub version: u32,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Cancel {}

/// A layer's tar is whole, and has another DiffID or other files than the index says.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Revoke {
    /// The layer's digest.
    #[prost(string, tag = "1")]
    pub layer: String,
    /// BLAKE3 of the index's canonical table: 32 bytes.
    #[prost(bytes = "bytes", tag = "2")]
    pub index: Bytes,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Revoked {}

/// An image, and who asks for it.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
#[prost(skip_debug)]
pub struct ImageRef {
    /// As people write it: `quay.io/team/app:v1`.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The value of an `Authorization` header, from who has credentials of its own.
    #[prost(string, optional, tag = "2")]
    pub authorization: Option<String>,
}

impl std::fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageRef").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Bytes of a layer of an image, or of its index.
#[derive(Clone, PartialEq, prost::Message)]
pub struct RangeRef {
    #[prost(message, optional, tag = "1")]
    pub image: Option<ImageRef>,
    /// The layer's digest.
    #[prost(string, tag = "2")]
    pub layer: String,
    /// Of the layer's index file with this digest; absent: of the layer.
    #[prost(string, optional, tag = "3")]
    pub index: Option<String>,
    /// The first byte, and the first one after the range.
    #[prost(uint64, tag = "4")]
    pub start: u64,
    #[prost(uint64, tag = "5")]
    pub end: u64,
    #[prost(enumeration = "Urgency", tag = "6")]
    pub urgency: i32,
    /// Sources whose bytes for this range were wrong.
    #[prost(fixed64, repeated, tag = "7")]
    pub wrong: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Urgency {
    Fill = 0,
    Prefetch = 1,
    Demand = 2,
}

/// From the daemon to the filesystem.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Reply {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(oneof = "Answer", tags = "2, 3, 4, 5, 6")]
    pub answer: Option<Answer>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Answer {
    #[prost(message, tag = "2")]
    Hello(Hello),
    #[prost(message, tag = "3")]
    Image(ImageInfo),
    #[prost(message, tag = "4")]
    Range(Range),
    #[prost(message, tag = "5")]
    Failed(Failed),
    #[prost(message, tag = "6")]
    Revoked(Revoked),
}

#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub struct ImageInfo {
    /// The image's name with the digest of its manifest: what further requests should name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Digest of the manifest for this machine.
    #[prost(string, tag = "2")]
    pub manifest: String,
    /// Digest of the configuration.
    #[prost(string, tag = "3")]
    pub config: String,
    /// The lowest layer first.
    #[prost(message, repeated, tag = "4")]
    pub layers: Vec<LayerInfo>,
    /// The value of an `Authorization` header with which the image was pulled a moment ago, where it can be read
    /// neither without nor with the node's own: for further requests, and to be kept in memory only.
    #[prost(string, optional, tag = "5")]
    pub borrowed: Option<String>,
}

impl std::fmt::Debug for ImageInfo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageInfo").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct LayerInfo {
    #[prost(string, tag = "1")]
    pub digest: String,
    /// In bytes.
    #[prost(uint64, tag = "2")]
    pub size: u64,
    #[prost(string, tag = "3")]
    pub media_type: String,
    /// What the configuration says of the uncompressed tar.
    #[prost(string, tag = "4")]
    pub diff_id: String,
    /// Of this layer and those below.
    #[prost(string, tag = "5")]
    pub chain_id: String,
    #[prost(oneof = "Index", tags = "6, 7")]
    pub index: Option<Index>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Index {
    /// There is one that this node trusts, and its builder computed the DiffID that the configuration claims.
    #[prost(message, tag = "6")]
    Known(IndexInfo),
    /// Why there is none.
    #[prost(string, tag = "7")]
    Missing(String),
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct IndexInfo {
    /// BLAKE3 of the canonical table: 32 bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// SHA-256 of the file.
    #[prost(string, tag = "2")]
    pub file: String,
    /// Bytes of the file.
    #[prost(uint64, tag = "3")]
    pub len: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Range {
    #[prost(bytes = "bytes", tag = "1")]
    pub bytes: Bytes,
    /// Who had them: [`CHECKED`], [`ORIGIN`], or a member.
    #[prost(fixed64, tag = "2")]
    pub source: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Failed {
    #[prost(enumeration = "FailureKind", tag = "1")]
    pub kind: i32,
    /// For people.
    #[prost(string, tag = "2")]
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum FailureKind {
    /// Nobody can serve it at present.
    Unavailable = 0,
    /// Who asks may not have it, or there is no such thing.
    Refused = 1,
    /// The request itself is wrong.
    Invalid = 2,
}

/// What a filesystem did since its process began, and what it shows now.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Report {
    /// Spans by where their bytes came from. Wrong ones count as well.
    #[prost(uint64, tag = "1")]
    pub spans_from_peers: u64,
    #[prost(uint64, tag = "2")]
    pub spans_from_registry: u64,
    #[prost(uint64, tag = "3")]
    pub spans_from_store: u64,
    /// Left on the filesystem's own disk by a process before.
    #[prost(uint64, tag = "4")]
    pub spans_from_disk: u64,
    /// Spans by whom they were fetched for.
    #[prost(uint64, tag = "5")]
    pub spans_on_demand: u64,
    #[prost(uint64, tag = "6")]
    pub spans_prefetched: u64,
    #[prost(uint64, tag = "7")]
    pub spans_filled: u64,
    #[prost(uint64, tag = "8")]
    pub spans_wrong: u64,
    #[prost(uint64, tag = "9")]
    pub spans_failed: u64,
    #[prost(uint64, tag = "10")]
    pub bytes_fetched: u64,
    #[prost(uint64, tag = "11")]
    pub bytes_read: u64,
    /// Reads that waited: for each of [`WAIT_BOUNDS_MS`](crate::span_cache::WAIT_BOUNDS_MS) those that waited no
    /// longer than that and longer than the one before, then all others.
    #[prost(uint64, repeated, tag = "12")]
    pub waits: Vec<u64>,
    #[prost(uint64, tag = "13")]
    pub waited_us: u64,
    /// Bytes of the disk.
    #[prost(uint64, tag = "14")]
    pub disk_used: u64,
    #[prost(uint64, optional, tag = "15")]
    pub disk_limit: Option<u64>,
    #[prost(message, repeated, tag = "16")]
    pub images: Vec<ShownImage>,
    /// Images that did not fit.
    #[prost(uint64, tag = "17")]
    pub more_images: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ShownImage {
    /// With the digest of its manifest.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Those that are shown, lowest first.
    #[prost(message, repeated, tag = "2")]
    pub layers: Vec<ShownLayer>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct ShownLayer {
    #[prost(string, tag = "1")]
    pub digest: String,
    /// Bytes of its tar, and how many of them are on the filesystem's disk.
    #[prost(uint64, tag = "2")]
    pub tar: u64,
    #[prost(uint64, tag = "3")]
    pub local: u64,
    /// It is there as a whole, and was compared with its DiffID.
    #[prost(bool, tag = "4")]
    pub whole: bool,
}
