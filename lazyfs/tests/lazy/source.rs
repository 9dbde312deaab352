//! A source in memory that does what a test tells it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use ring::digest::{SHA256, digest};
use shoal_lazyfs::build::{BuildSink, IndexBuilder};
use shoal_lazyfs::index::{IndexId, LayerIndex, encode_head};
use shoal_lazyfs::source::{LayerSource, SourceError, Urgency};
use shoal_proto::Digest;
use tokio::sync::Semaphore;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Serves,
    /// Nobody can serve anything.
    Gone,
    /// Nobody can serve anything of this layer.
    Without(Digest),
    /// Answers, but not with what is asked for.
    Lies,
    /// Each answer waits for a permit of `gate`.
    Waits,
    /// As `Waits`, but only what is not urgent.
    FillWaits,
}

#[derive(Debug)]
pub(crate) struct Source {
    layers: Mutex<HashMap<Digest, (Bytes, Bytes)>>,
    mood: Mutex<Mood>,
    pub(crate) gate: Semaphore,
    asked: AtomicUsize,
    revoked: Mutex<Vec<Digest>>,
}

struct Windows(Vec<u8>);

impl BuildSink for Windows {
    fn tar(&mut self, _bytes: &[u8]) -> std::io::Result<()> {
        Ok(())
    }

    fn window(&mut self, compressed: &[u8]) -> std::io::Result<()> {
        self.0.extend_from_slice(compressed);
        Ok(())
    }
}

impl Source {
    pub(crate) fn new() -> Self {
        Self {
            layers: Mutex::default(),
            mood: Mutex::new(Mood::Serves),
            gate: Semaphore::new(0),
            asked: AtomicUsize::new(0),
            revoked: Mutex::default(),
        }
    }

    pub(crate) fn add(&self, layer: Vec<u8>, span_size: u64) -> Digest {
        self.index_and_add(layer, span_size, |_| {})
    }

    /// With an index that lies about the DiffID.
    pub(crate) fn add_forged(&self, layer: Vec<u8>, span_size: u64) -> Digest {
        self.index_and_add(layer, span_size, |index| index.diff_id = Digest::sha256([7; 32]))
    }

    fn index_and_add(&self, layer: Vec<u8>, span_size: u64, change: impl Fn(&mut LayerIndex)) -> Digest {
        let name = Digest::sha256(digest(&SHA256, &layer).as_ref().try_into().unwrap());
        let mut builder =
            IndexBuilder::new(name, layer.len() as u64, span_size, Windows(Vec::new())).unwrap();
        builder.push(&layer).unwrap();
        let mut built = builder.finish().unwrap();
        change(&mut built.index);
        let mut index = encode_head(&built.index, &built.window_lengths).unwrap();
        index.extend_from_slice(&built.sink.0);
        self.layers.lock().unwrap().insert(name, (layer.into(), index.into()));
        name
    }

    pub(crate) fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Ranges of layers, not of indexes, that were asked for.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Layers whose index was said to lie.
    pub(crate) fn revoked(&self) -> Vec<Digest> {
        self.revoked.lock().unwrap().clone()
    }

    async fn answer(&self, layer: Digest, bytes: Bytes, urgency: Urgency) -> Result<Bytes, SourceError> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Serves => Ok(bytes),
            Mood::Gone => Err(SourceError::Unavailable(layer)),
            Mood::Without(gone) if gone == layer => Err(SourceError::Unavailable(layer)),
            Mood::Without(_) => Ok(bytes),
            Mood::Lies => Ok(bytes.iter().map(|byte| byte ^ 0x10).collect()),
            Mood::FillWaits if urgency > Urgency::Fill => Ok(bytes),
            Mood::Waits | Mood::FillWaits => {
                self.gate.acquire().await.unwrap().forget();
                Ok(bytes)
            }
        }
    }

    fn bytes(&self, layer: &Digest) -> Result<(Bytes, Bytes), SourceError> {
        self.layers.lock().unwrap().get(layer).cloned().ok_or(SourceError::NoIndex(*layer))
    }
}

impl LayerSource for Source {
    fn index<'a>(
        &'a self,
        layer: &'a Digest,
        range: Range<u64>,
        _urgency: Urgency,
    ) -> BoxFuture<'a, Result<Bytes, SourceError>> {
        async move {
            if *self.mood.lock().unwrap() == Mood::Gone {
                return Err(SourceError::Unavailable(*layer));
            }
            Ok(self.bytes(layer)?.1.slice(range.start as usize..range.end as usize))
        }
        .boxed()
    }

    fn layer<'a>(
        &'a self,
        layer: &'a Digest,
        range: Range<u64>,
        urgency: Urgency,
    ) -> BoxFuture<'a, Result<Bytes, SourceError>> {
        async move {
            self.asked.fetch_add(1, Ordering::SeqCst);
            let bytes = self.bytes(layer)?.0.slice(range.start as usize..range.end as usize);
            self.answer(*layer, bytes, urgency).await
        }
        .boxed()
    }

    fn revoke<'a>(&'a self, layer: &'a Digest, _index: IndexId) -> BoxFuture<'a, ()> {
        async move { self.revoked.lock().unwrap().push(*layer) }.boxed()
    }
}
