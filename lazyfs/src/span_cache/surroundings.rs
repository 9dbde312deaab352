//! What all layers of a cache have in common.

use std::ops::Range;
use std::sync::Arc;

use shoal_proto::Digest;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::metrics::Metrics;
use super::shelf::Shelf;
use super::{Patience, retry};
use crate::source::{Given, Giver, LayerSource, SourceError, Urgency};

/// Of what the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Layer,
    Index,
}

#[derive(Clone, Debug)]
pub(super) struct Surroundings {
    pub(super) runtime: Handle,
    pub(super) source: Arc<dyn LayerSource>,
    pub(super) patience: Patience,
    pub(super) shelf: Arc<Shelf>,
    pub(super) metrics: Arc<Metrics>,
}

impl Surroundings {
    /// Bytes from the source, asked for until the deadline.
    pub(super) async fn fetch(
        &self,
        layer: &Digest,
        part: Part,
        range: &Range<u64>,
        urgency: Urgency,
        wrong: &[Giver],
        deadline: Instant,
    ) -> Result<Given, SourceError> {
        let ask = || match part {
            Part::Layer => self.source.layer(layer, range.clone(), urgency, wrong),
            Part::Index => self.source.index(layer, range.clone(), urgency, wrong),
        };
        let given = retry::until(deadline, SourceError::Unavailable(*layer), ask).await?;
        self.metrics.received(given.bytes.len());
        Ok(given)
    }
}
