//! Exact ranges of layers and of their indexes: from this disk, from a member, or from the origin.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use shoal_lazyfs::link::messages::{CHECKED, ORIGIN};
use shoal_lazyfs::source::Urgency;
use shoal_origin::{OriginError, Origins};
use shoal_proto::message::{Part, PeerInfo, RangeRequest, limit};
use shoal_proto::{ChunkIndex, Digest, NodeId, SwarmId};
use shoal_store::{BlobName, IndexFact, ReadError, Reader, Store};
use shoal_transport::{Bulk, ConnectError, FetchError, FetchedChunk, RateLimit};
use tokio::sync::{Semaphore, watch};
use tracing::debug;

use super::claims::swarm_of;
use super::gate::Gate;
use super::hedge::Hedge;
use super::holders::Holders;
use crate::blobs::Wanted;
use crate::images::is_shared;
use crate::metrics::{Metrics, SourceLabel, SourceValue};

/// Ranges that are asked of origins at once: they are few, and the registry serves the others as well.
const FROM_ORIGIN: usize = 8;

/// Why a range cannot be had now.
#[derive(Debug, thiserror::Error)]
pub(super) enum RangeError {
    #[error("{0:?} is no range of it")]
    NoSuchRange(Range<u64>),
    #[error("no member that answers has it")]
    Nobody,
    #[error("no member that answers has it, and the registry does not give it: {0}")]
    Origin(#[from] OriginError),
    #[error("no member that answers has it, and the registry does not give parts of it")]
    Whole,
    #[error("no member that answers has it, and the registry may not be asked")]
    NotAllowed,
}

/// Who may have a range.
#[derive(Debug)]
enum Candidate {
    Member(PeerInfo),
    Origin,
}

/// What it takes to ask an origin.
#[derive(Clone, Debug)]
pub(crate) struct OriginParts {
    pub(crate) origins: Origins,
    pub(crate) limit: Arc<RateLimit>,
}

/// Gets ranges. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Ranges {
    store: Store,
    bulk: Arc<dyn Bulk>,
    holders: Holders,
    origin: OriginParts,
    metrics: Metrics,
    gate: Arc<Gate>,
    hedge: Arc<Hedge>,
    at_origin: Arc<Semaphore>,
}

impl std::fmt::Debug for Ranges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ranges").finish_non_exhaustive()
    }
}

/// Why a member did not give it.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
}

/// A number for a member that tells it from others.
fn source_of(node: NodeId) -> u64 {
    let number = node.as_bytes().first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    number.max(ORIGIN + 1)
}

impl Ranges {
    pub(crate) fn new(
        store: Store,
        bulk: Arc<dyn Bulk>,
        holders: Holders,
        origin: OriginParts,
        metrics: Metrics,
    ) -> Self {
        let at_origin = Arc::new(Semaphore::new(FROM_ORIGIN));
        Self { store, bulk, holders, origin, metrics, gate: Arc::default(), hedge: Arc::default(), at_origin }
    }

    /// Bytes of a layer, or of an index of it, and from whom. Those in `wrong` gave others than who asks needs: they
    /// come last.
    pub(super) async fn get(
        &self,
        layer: &Wanted,
        part: Part,
        range: Range<u64>,
        urgency: Urgency,
        wrong: &[u64],
    ) -> Result<(Bytes, u64), RangeError> {
        let len = range.end.saturating_sub(range.start);
        if len == 0 || len > limit::RANGE || (part == Part::Layer && range.end > layer.size) {
            return Err(RangeError::NoSuchRange(range));
        }
        let _turn = self.gate.enter(urgency).await;
        if let Some(bytes) = self.local(layer, part, range.clone()).await {
            return Ok(self.counted(bytes, CHECKED, SourceValue::local));
        }
        let request = RangeRequest { swarm: swarm_of(layer), part, range };
        let ask = |candidate, arrived| self.ask_candidate(candidate, layer, &request, arrived);
        let got = self.hedge.first_of(self.candidates(layer, part, wrong).await, ask).await;
        let (bytes, number) = got.inspect_err(|_| self.holders.forget(&request.swarm))?;
        let source = if number == ORIGIN { SourceValue::origin } else { SourceValue::swarm };
        Ok(self.counted(bytes, number, source))
    }

    /// Whom to ask, in this order: members that may have it, the origin, those whose bytes were wrong.
    async fn candidates(&self, layer: &Wanted, part: Part, wrong: &[u64]) -> Vec<Candidate> {
        let mut holders = self.holders(layer).await;
        fastrand::shuffle(&mut holders);
        let (first, last): (Vec<PeerInfo>, Vec<PeerInfo>) =
            holders.into_iter().partition(|holder| !wrong.contains(&source_of(holder.node)));
        let origin = (part == Part::Layer).then_some(Candidate::Origin);
        let members = |members: Vec<PeerInfo>| members.into_iter().map(Candidate::Member);
        members(first).chain(origin).chain(members(last)).collect()
    }

    fn counted(&self, bytes: Bytes, number: u64, source: SourceValue) -> (Bytes, u64) {
        let label = SourceLabel { source };
        self.metrics.lazy_ranges.get_or_create(&label).inc();
        self.metrics.lazy_range_bytes.get_or_create(&label).inc_by(bytes.len() as u64);
        (bytes, number)
    }

    /// Members that may have the layer.
    pub(super) async fn holders(&self, layer: &Wanted) -> Vec<PeerInfo> {
        self.holders.of(&swarm_of(layer), &layer.context.repository).await
    }

    pub(super) fn forget_holders(&self, layer: &SwarmId) {
        self.holders.forget(layer);
    }

    /// Asks one member, over a link that is there or is made. Bytes are added to `arrived` as they come.
    pub(super) async fn ask(
        &self,
        holder: &PeerInfo,
        request: RangeRequest,
        arrived: watch::Sender<u64>,
    ) -> Result<FetchedChunk, AskError> {
        self.bulk.connect(holder.clone()).await?;
        Ok(self.bulk.fetch_range(holder.node, request, arrived).await?)
    }

    async fn ask_candidate(
        &self,
        candidate: Candidate,
        layer: &Wanted,
        request: &RangeRequest,
        arrived: watch::Sender<u64>,
    ) -> Result<(Bytes, u64), RangeError> {
        let holder = match candidate {
            Candidate::Member(holder) => holder,
            Candidate::Origin => {
                let bytes = self.ask_origin(layer, request.range.clone(), &arrived).await?;
                return Ok((bytes, ORIGIN));
            }
        };
        match self.ask(&holder, request.clone(), arrived).await {
            Ok(FetchedChunk::Bytes(bytes)) => Ok((bytes, source_of(holder.node))),
            answer => {
                let answer = answer.map(|_| "busy, or has it not");
                debug!(peer = %holder.node, part = ?request.part, ?answer, "no range from this member");
                Err(RangeError::Nobody)
            }
        }
    }

    async fn ask_origin(
        &self,
        layer: &Wanted,
        range: Range<u64>,
        arrived: &watch::Sender<u64>,
    ) -> Result<Bytes, RangeError> {
        let _turn = self.at_origin.acquire().await.map_err(|_| RangeError::NotAllowed)?;
        let origin = self.origin.origins.admit(&layer.registry).map_err(|_| RangeError::NotAllowed)?;
        let len = range.end - range.start;
        let mut stream = layer.context.read(&origin, &layer.digest, layer.size, range).await?;
        if stream.ignores_range() {
            return Err(RangeError::Whole);
        }
        let mut bytes = BytesMut::new();
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            self.origin.limit.take(piece.len() as u64).await;
            arrived.send_modify(|bytes| *bytes += piece.len() as u64);
            bytes.extend_from_slice(&piece);
        }
        if bytes.len() as u64 == len { Ok(bytes.freeze()) } else { Err(RangeError::Whole) }
    }

    /// What this disk has, checked as it is read.
    async fn local(&self, layer: &Wanted, part: Part, range: Range<u64>) -> Option<Bytes> {
        let (store, swarm) = (self.store.clone(), swarm_of(layer));
        let read = move || read(&store, &swarm, part, range);
        match tokio::task::spawn_blocking(read).await.ok()? {
            Ok(bytes) => Some(bytes),
            Err(ReadError::Missing { .. }) => None,
            Err(error) => {
                debug!(layer = %layer.digest, %error, "not from this disk");
                None
            }
        }
    }
}

fn read(store: &Store, layer: &SwarmId, part: Part, range: Range<u64>) -> Result<Bytes, ReadError> {
    let mut reader = open(store, layer, part)?;
    let mut bytes = BytesMut::new();
    while range.start + (bytes.len() as u64) < range.end {
        let next = reader.read(range.start + bytes.len() as u64..range.end)?;
        if bytes.is_empty() && next.get().len() as u64 == range.end - range.start {
            return Ok(next.into_inner());
        }
        bytes.extend_from_slice(next.get());
    }
    Ok(bytes.freeze())
}

fn open(store: &Store, layer: &SwarmId, part: Part) -> Result<Reader, ReadError> {
    // What came from a private repository of another registry is not for callers of this one.
    let whole = store
        .complete(&layer.digest)
        .filter(|known| known.swarm.size == layer.size && is_shared(store, &known.swarm, &layer.origin));
    match (whole, part) {
        (Some(_), Part::Index(file)) => open_index(store, layer, &file),
        (Some(_), _) => store.reader(&layer.digest),
        (None, Part::Index(file)) => Err(missing(&file)),
        (None, _) => store.partial_reader(layer),
    }
}

/// The index file of this layer, if this is the digest of the one that is here.
pub(super) fn open_index(store: &Store, layer: &SwarmId, file: &Digest) -> Result<Reader, ReadError> {
    match store.index(&layer.digest) {
        Ok(Some(IndexFact::Built { file: known, .. })) if known == *file => store.reader(file),
        _ => Err(missing(file)),
    }
}

fn missing(file: &Digest) -> ReadError {
    ReadError::Missing { blob: BlobName::Complete(*file), index: ChunkIndex(0) }
}
