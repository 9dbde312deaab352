//! The one thing that lazy layers need from outside: ranges of layers, and of their indexes.

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shoal_proto::Digest;

use crate::index::{IndexId, MAX_SPAN_COMPRESSED};

/// Bytes of one range at most: those of the longest span. What a daemon gives at once.
pub const MAX_RANGE: u64 = shoal_proto::message::limit::RANGE;
const _: () = assert!(MAX_SPAN_COMPRESSED <= MAX_RANGE);

/// Who waits. More urgent ranges come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// Nobody: the layer is being made whole.
    Fill,
    /// Somebody will, presumably soon.
    Prefetch,
    /// A reader does.
    Demand,
}

/// Why a source has no bytes to give.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Who could serve it does not answer, or nobody has it at present: to ask again later may help.
    #[error("nobody can serve {0} at present")]
    Unavailable(Digest),
    /// To ask again does not help: the layer has no index, or no index that this node may trust.
    #[error("{0} has no index")]
    NoIndex(Digest),
    /// To ask again does not help: the layer may not be read, or is not known.
    #[error("{0} may not be read")]
    Refused(Digest),
}

/// Who gave bytes, as a number that tells it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Giver(pub u64);

/// Bytes that nobody has checked yet, and who gave them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    pub bytes: Bytes,
    pub from: Giver,
}

impl Given {
    /// Of a source that asks nobody else.
    pub fn by_itself(bytes: Bytes) -> Self {
        Self { bytes, from: Giver(0) }
    }
}

/// What a source answers, later.
pub type Giving<'a> = BoxFuture<'a, Result<Given, SourceError>>;

/// Which index a layer has, as somebody said whom this node trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClaimedIndex {
    pub id: IndexId,
    /// SHA-256 of its file, and its bytes.
    pub file: Digest,
    pub len: u64,
}

/// Serves ranges of at most [`MAX_RANGE`] bytes. Both calls answer with exactly the bytes asked for, or an error; a
/// caller that loses interest drops the future. What comes is checked by whoever asked: of an index that it is the
/// claimed one, of a layer what its bytes decode to. Those in `wrong` gave bytes for this very range that did not hold:
/// they come last. That a range is asked for again says nothing against who gave it: a disk may have lost it.
pub trait LayerSource: fmt::Debug + Send + Sync + 'static {
    /// The index that a layer must have. `None` where the source makes its indexes itself, or knows nothing of the
    /// layer.
    fn claimed(&self, _layer: &Digest) -> Option<ClaimedIndex> {
        None
    }

    /// Bytes of the layer's index file, as [`Header`](crate::index::Header) describes it. All calls for one layer
    /// are about one and the same file, the claimed one.
    fn index<'a>(
        &'a self,
        layer: &'a Digest,
        range: Range<u64>,
        urgency: Urgency,
        wrong: &'a [Giver],
    ) -> Giving<'a>;

    /// Bytes of the layer itself, compressed as it is.
    fn layer<'a>(
        &'a self,
        layer: &'a Digest,
        range: Range<u64>,
        urgency: Urgency,
        wrong: &'a [Giver],
    ) -> Giving<'a>;

    /// The index of a layer names another DiffID or other files than the layer's tar has. Who made it is not to be trusted. Called
    /// once, when this was found; a source that trusts nobody's indexes but its own has nothing to do.
    fn revoke<'a>(&'a self, _layer: &'a Digest, _index: IndexId) -> BoxFuture<'a, ()> {
        async {}.boxed()
    }
}
