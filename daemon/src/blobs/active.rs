//! A blob on its way to this node: what is here already, and who waits for more.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_proto::{ChunkIndex, ChunkLayout, ChunkSet, ChunkValue, Digest, RegistryName, SwarmId};
use shoal_registry_proxy::Source;
use shoal_store::Partial;
use tokio::sync::watch;

use super::context::OriginContext;
use crate::swarm::WriteTo;

/// A blob as somebody wants it.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    pub registry: RegistryName,
    pub context: OriginContext,
}

/// How far the blob is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Fetching,
    /// Whole, and its digest matched.
    Complete,
    /// Cannot be had; why, for people.
    Failed(Failure),
}

/// Why a blob cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("neither a peer nor the origin can deliver it now: {0}")]
    Unavailable(Arc<str>),
    #[error("the bytes that the origin delivers do not have this digest")]
    WrongBytes,
    #[error("the store cannot take it: {0}")]
    Store(Arc<str>),
    #[error("nobody waited for it any more")]
    Abandoned,
}

/// A blob on its way. Shared by its readers and the task that drives the swarm.
#[derive(Debug)]
pub(crate) struct ActiveBlob {
    pub digest: Digest,
    pub layout: ChunkLayout,
    pub registry: RegistryName,
    state: Mutex<State>,
    /// Counts up at every change; readers wait on it.
    changes: watch::Sender<u64>,
    /// Bytes that came from the origin, of chunks that are not whole yet as well.
    received: AtomicU64,
}

#[derive(Debug)]
struct State {
    round: u32,
    available: ChunkSet,
    phase: Phase,
    context: OriginContext,
    first_source: Option<Source>,
    started: Instant,
    readers: usize,
    /// Wanted although nobody reads, until then.
    linger_until: Instant,
    /// What the origin last failed with.
    outage: Option<Arc<str>>,
    /// Whether the blob was complete and has lost chunks since.
    repair: bool,
    /// Keeps the store from evicting it.
    partial: Option<Partial>,
    /// Chunks that the store kept from before and nothing vouches for any more: they were checked when they
    /// were written, and need not be fetched if they are still what the swarm wants.
    kept: HashMap<u32, ChunkValue>,
}

impl ActiveBlob {
    pub(crate) fn new(wanted: Wanted, layout: ChunkLayout) -> Self {
        let state = State {
            round: 0,
            available: ChunkSet::empty(layout.count()),
            phase: Phase::Fetching,
            context: wanted.context,
            first_source: None,
            started: Instant::now(),
            readers: 0,
            linger_until: Instant::now(),
            outage: None,
            repair: false,
            partial: None,
            kept: HashMap::new(),
        };
        let changes = watch::Sender::new(0);
        let (digest, registry) = (wanted.digest, wanted.registry);
        Self { digest, layout, registry, state: Mutex::new(state), changes, received: AtomicU64::new(0) }
    }

    // A poisoned lock means that a holder panicked; the state is a few plain values, each valid at any time.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let value = change(&mut self.lock());
        self.changes.send_modify(|count| *count += 1);
        value
    }

    /// The swarm of the present round.
    pub(crate) fn swarm(&self) -> SwarmId {
        let round = self.lock().round;
        SwarmId { digest: self.digest, size: self.layout.size(), origin: self.registry.clone(), round }
    }

    pub(crate) fn context(&self) -> OriginContext {
        self.lock().context.clone()
    }

    /// Another caller asks for the same blob: its authorisation is the fresher one.
    pub(crate) fn set_context(&self, context: OriginContext) {
        self.lock().context = context;
    }

    pub(crate) fn phase(&self) -> Phase {
        self.lock().phase.clone()
    }

    /// Where the first chunk came from that was not on this node's disk before.
    pub(crate) fn first_source(&self) -> Option<Source> {
        self.lock().first_source
    }

    pub(crate) fn add(&self, index: ChunkIndex, source: Source) {
        self.change(|state| {
            state.available.insert(index);
            state.first_source.get_or_insert(source);
            // Whatever failed before, it goes on.
            state.outage = None;
        });
    }

    pub(crate) fn set_available(&self, available: ChunkSet) {
        self.change(|state| state.available = available);
    }

    pub(crate) fn remove(&self, index: ChunkIndex) {
        self.change(|state| {
            state.kept.remove(&index.0);
            state.available.remove(index)
        });
    }

    /// A new round: what was fetched in the old one is not trusted.
    pub(crate) fn restart(&self, round: u32) {
        let count = self.layout.count();
        self.change(|state| {
            state.round = round;
            state.available = ChunkSet::empty(count);
            state.kept.clear();
            state.phase = Phase::Fetching;
        });
    }

    /// Wakes at every change after the call.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The chunks of `wanted` from its start on that are available without a gap; `None` if the first is not.
    pub(crate) fn ready(&self, wanted: &Range<u32>) -> Option<Range<u32>> {
        let state = self.lock();
        let ready = wanted.clone().take_while(|index| state.available.contains(ChunkIndex(*index))).count();
        let end = wanted.start + u32::try_from(ready).unwrap_or(0);
        (end > wanted.start).then_some(wanted.start..end)
    }

    /// How long the rest will take at the pace so far; `None` before the first chunk.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        let state = self.lock();
        let (have, all) = (state.available.count(), state.available.len());
        shoal_swarm::hold::remaining(state.started.elapsed(), have, all)
    }

    pub(crate) fn reader_came(&self) {
        self.lock().readers += 1;
    }

    /// How many read it.
    pub(crate) fn readers(&self) -> usize {
        self.lock().readers
    }

    /// A reader that was cut comes back; the download goes on meanwhile.
    pub(crate) fn reader_left(&self, linger: Duration) {
        let mut state = self.lock();
        state.readers = state.readers.saturating_sub(1);
        state.linger_until = state.linger_until.max(Instant::now() + linger);
    }

    /// Whether this chunk is in the store.
    pub(crate) fn holds(&self, index: ChunkIndex) -> bool {
        self.lock().available.contains(index)
    }

    /// The origin sent some bytes. On a slow line a chunk takes longer than a client waits without any progress.
    pub(crate) fn receive(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Grows with every chunk that is here, and with every byte that comes from the origin.
    pub(crate) fn progress(&self) -> u64 {
        self.received.load(Ordering::Relaxed) + u64::from(self.count())
    }

    /// How many chunks are here.
    pub(crate) fn count(&self) -> u32 {
        self.lock().available.count()
    }

    /// Keeps the download going for a while although nobody reads.
    pub(crate) fn linger(&self, time: Duration) {
        self.lock().linger_until = Instant::now() + time;
    }

    /// Whether anybody reads it, or may soon.
    pub(crate) fn is_wanted(&self) -> bool {
        let state = self.lock();
        state.readers > 0 || state.linger_until > Instant::now()
    }

    /// Notes why the origin does not deliver.
    pub(crate) fn set_outage(&self, reason: Arc<str>) {
        self.change(|state| state.outage = Some(reason));
    }

    pub(crate) fn outage(&self) -> Option<Arc<str>> {
        self.lock().outage.clone()
    }

    /// Notes what the store kept without anything to vouch for it.
    pub(crate) fn set_kept(&self, kept: HashMap<u32, ChunkValue>) {
        self.lock().kept = kept;
    }

    /// The value of a chunk that the store kept so.
    pub(crate) fn kept(&self, index: ChunkIndex) -> Option<ChunkValue> {
        self.lock().kept.get(&index.0).copied()
    }

    /// The store's hold on what is fetched, for as long as the download goes on.
    pub(crate) fn keep(&self, partial: Partial) {
        self.lock().partial = Some(partial);
    }

    pub(crate) fn set_repair(&self) {
        self.lock().repair = true;
    }

    pub(crate) fn is_repair(&self) -> bool {
        self.lock().repair
    }

    /// Where its chunks are written.
    pub(crate) fn write_to(&self) -> WriteTo {
        if self.is_repair() { WriteTo::Repair(self.digest) } else { WriteTo::Partial(self.swarm()) }
    }

    /// The download is over.
    pub(crate) fn end(&self, phase: Phase) {
        self.change(|state| {
            state.phase = phase;
            state.partial = None;
        });
    }
}
