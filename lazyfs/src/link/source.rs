//! Ranges of layers that come over the link.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, TryFutureExt as _};
use shoal_proto::Digest;

use super::messages::{self, Answer, Ask, CHECKED, ImageRef, ORIGIN, RangeRef, Report};
use super::{Link, LinkError};
use crate::index::IndexId;
use crate::source::{ClaimedIndex, Given, Giver, Giving, LayerSource, SourceError, Urgency};

/// Ranges of layers, one for each span, by where they came from.
#[derive(Debug, Default)]
pub(super) struct Came {
    store: AtomicU64,
    registry: AtomicU64,
    peers: AtomicU64,
}

impl Came {
    fn note(&self, from: u64) {
        let came = match from {
            CHECKED => &self.store,
            ORIGIN => &self.registry,
            _ => &self.peers,
        };
        came.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn added_to(&self, report: Report) -> Report {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Report {
            spans_from_store: get(&self.store),
            spans_from_registry: get(&self.registry),
            spans_from_peers: get(&self.peers),
            ..report
        }
    }
}

impl Link {
    async fn range(
        &self,
        layer: &Digest,
        of_index: bool,
        range: Range<u64>,
        urgency: Urgency,
        wrong: &[Giver],
    ) -> Result<Given, LinkError> {
        let Some(served) = self.served(layer) else {
            return Err(LinkError::Refused(format!("{layer} belongs to no image that was resolved")));
        };
        let ask = Ask::Range(RangeRef {
            image: Some(ImageRef {
                name: served.image,
                authorization: served.authorization.map(|shown| shown.expose().to_owned()),
            }),
            layer: layer.to_string(),
            index: of_index.then(|| served.index.file.to_string()),
            start: range.start,
            end: range.end,
            urgency: messages::Urgency::from(urgency).into(),
            wrong: wrong.iter().map(|giver| giver.0).collect(),
        });
        let Answer::Range(got) = self.ask(ask).await? else { return Err(LinkError::Answer("no bytes")) };
        if got.bytes.len() as u64 != range.end.saturating_sub(range.start) {
            return Err(LinkError::Answer("too few or too many bytes"));
        }
        if !of_index {
            self.shared.came.note(got.source);
        }
        Ok(Given { bytes: got.bytes, from: Giver(got.source) })
    }
}

impl LayerSource for Link {
    fn claimed(&self, layer: &Digest) -> Option<ClaimedIndex> {
        self.served(layer).map(|served| served.index)
    }

    fn index<'a>(
        &'a self,
        layer: &'a Digest,
        range: Range<u64>,
        urgency: Urgency,
        wrong: &'a [Giver],
    ) -> Giving<'a> {
        self.range(layer, true, range, urgency, wrong).map_err(|error| about(layer, &error)).boxed()
    }

    fn layer<'a>(
        &'a self,
        layer: &'a Digest,
        range: Range<u64>,
        urgency: Urgency,
        wrong: &'a [Giver],
    ) -> Giving<'a> {
        self.range(layer, false, range, urgency, wrong).map_err(|error| about(layer, &error)).boxed()
    }

    /// The layer can be read no more, until it is resolved anew.
    fn revoke<'a>(&'a self, layer: &'a Digest, index: IndexId) -> BoxFuture<'a, ()> {
        async move {
            self.forget(layer);
            let index = Bytes::copy_from_slice(&index.0);
            let revoke = Ask::Revoke(messages::Revoke { layer: layer.to_string(), index });
            if let Err(error) = self.ask(revoke).await {
                tracing::warn!(%layer, %error, "the daemon does not know that an index is wrong");
            }
        }
        .boxed()
    }
}

fn about(layer: &Digest, error: &LinkError) -> SourceError {
    tracing::debug!(%layer, %error, "no bytes from the daemon");
    match error {
        LinkError::Refused(_) => SourceError::Refused(*layer),
        _ => SourceError::Unavailable(*layer),
    }
}

impl From<Urgency> for messages::Urgency {
    fn from(urgency: Urgency) -> Self {
        match urgency {
            Urgency::Fill => Self::Fill,
            Urgency::Prefetch => Self::Prefetch,
            Urgency::Demand => Self::Demand,
        }
    }
}
