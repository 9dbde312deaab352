//! A source in memory that does what a test tells it.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use ring::digest::{SHA256, digest};
use shoal_lazyfs::build::IndexBuilder;
use shoal_lazyfs::index::{Head, Header, IndexId, LayerIndex, encode_head};
use shoal_lazyfs::source::{
    ClaimedIndex, Given, Giver, Giving, LayerSource, MAX_RANGE, SourceError, Urgency,
};
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
    /// Files from which the next ranges of indexes come, instead of from the right one.
    foreign: Mutex<VecDeque<Bytes>>,
    mood: Mutex<Mood>,
    pub(crate) gate: Semaphore,
    asked: AtomicUsize,
    asked_of_indexes: AtomicUsize,
    lies_once: AtomicBool,
    blamed: Mutex<Vec<Vec<Giver>>>,
    revoked: Mutex<Vec<Digest>>,
}

fn sha256(bytes: &[u8]) -> Digest {
    Digest::sha256(digest(&SHA256, bytes).as_ref().try_into().unwrap())
}

/// The index of a layer, after a change.
pub(crate) fn index_file(layer: &[u8], span_size: u64, change: impl Fn(&mut LayerIndex)) -> Bytes {
    let mut builder = IndexBuilder::new(sha256(layer), layer.len() as u64, span_size, Vec::new()).unwrap();
    builder.push(layer).unwrap();
    let mut built = builder.finish().unwrap();
    change(&mut built.index);
    let mut index = encode_head(&built.index, &built.window_lengths).unwrap();
    index.extend_from_slice(&built.sink);
    index.into()
}

impl Source {
    pub(crate) fn new() -> Self {
        Self {
            layers: Mutex::default(),
            foreign: Mutex::default(),
            mood: Mutex::new(Mood::Serves),
            gate: Semaphore::new(0),
            asked: AtomicUsize::new(0),
            asked_of_indexes: AtomicUsize::new(0),
            lies_once: AtomicBool::new(false),
            blamed: Mutex::default(),
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

    /// With an index that shows the files of another tar.
    pub(crate) fn add_with_tree_of(&self, other: &[u8], layer: Vec<u8>, span_size: u64) -> Digest {
        let file = index_file(other, span_size, |_| {});
        let len = Header::decode(file.first_chunk().unwrap()).unwrap().head_len() as usize;
        let tree = Head::decode(&file[..len]).unwrap().index.tree;
        self.index_and_add(layer, span_size, |index| index.tree = tree.clone())
    }

    fn index_and_add(&self, layer: Vec<u8>, span_size: u64, change: impl Fn(&mut LayerIndex)) -> Digest {
        let name = sha256(&layer);
        let index = index_file(&layer, span_size, change);
        self.layers.lock().unwrap().insert(name, (layer.into(), index));
        name
    }

    pub(crate) fn index_of(&self, layer: &Digest) -> Bytes {
        self.bytes(layer).unwrap().1
    }

    /// The next range of an index comes from the first of these files, and so on.
    pub(crate) fn gives_first(&self, foreign: impl IntoIterator<Item = Bytes>) {
        *self.foreign.lock().unwrap() = foreign.into_iter().collect();
    }

    /// As if another builder had made the index, with other bytes for the same windows.
    pub(crate) fn compresses_windows_otherwise(&self, layer: &Digest) {
        let file = self.index_of(layer);
        let len = Header::decode(file.first_chunk().unwrap()).unwrap().head_len() as usize;
        let head = Head::decode(&file[..len]).unwrap();
        let mut compressor = zstd::bulk::Compressor::new(3).unwrap();
        compressor.include_checksum(true).unwrap();
        let windows: Vec<Vec<u8>> = (head.index.spans.indexes())
            .map(|span| {
                let Some(range) = head.window_range(span) else { return Vec::new() };
                let window = &file[range.start as usize..range.end as usize];
                compressor.compress(&zstd::bulk::decompress(window, 1 << 15).unwrap()).unwrap()
            })
            .collect();
        let lengths: Vec<u32> = windows.iter().map(|window| window.len() as u32).collect();
        let mut other = encode_head(&head.index, &lengths).unwrap();
        other.extend(windows.concat());
        assert!(other.len() > file.len(), "there are windows");
        self.layers.lock().unwrap().get_mut(layer).unwrap().1 = other.into();
    }

    pub(crate) fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// Ranges of layers, not of indexes, that were asked for. Who gave them is numbered from 0; of indexes, from 1000.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// Ranges of indexes that were asked for.
    pub(crate) fn asked_of_indexes(&self) -> usize {
        self.asked_of_indexes.load(Ordering::SeqCst)
    }

    /// The next range of a layer is wrong.
    pub(crate) fn lies_once(&self) {
        self.lies_once.store(true, Ordering::SeqCst);
    }

    /// Layers whose index was said to lie.
    pub(crate) fn revoked(&self) -> Vec<Digest> {
        self.revoked.lock().unwrap().clone()
    }

    /// Of each range that was asked for whose earlier bytes did not hold: who gave those.
    pub(crate) fn blamed(&self) -> Vec<Vec<Giver>> {
        self.blamed.lock().unwrap().clone()
    }

    /// Each answer has another giver, that of this number.
    fn given(&self, wrong: &[Giver], number: usize, bytes: Bytes) -> Given {
        if !wrong.is_empty() {
            self.blamed.lock().unwrap().push(wrong.to_vec());
        }
        Given { bytes, from: Giver(number as u64) }
    }

    async fn answer(&self, layer: Digest, bytes: Bytes, urgency: Urgency) -> Result<Bytes, SourceError> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            _ if self.lies_once.swap(false, Ordering::SeqCst) => Ok(bytes.iter().map(|byte| !byte).collect()),
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
    fn claimed(&self, layer: &Digest) -> Option<ClaimedIndex> {
        let file = self.bytes(layer).ok()?.1;
        let id = Header::decode(file.first_chunk().unwrap()).unwrap().id;
        Some(ClaimedIndex { id, file: sha256(&file), len: file.len() as u64 })
    }

    fn index<'a>(
        &'a self,
        layer: &'a Digest,
        range: Range<u64>,
        _urgency: Urgency,
        wrong: &'a [Giver],
    ) -> Giving<'a> {
        assert!(range.end - range.start <= MAX_RANGE, "{range:?}");
        async move {
            if *self.mood.lock().unwrap() == Mood::Gone {
                return Err(SourceError::Unavailable(*layer));
            }
            let number = 1000 + self.asked_of_indexes.fetch_add(1, Ordering::SeqCst);
            let foreign = self.foreign.lock().unwrap().pop_front();
            let file = foreign.map_or_else(|| self.bytes(layer).map(|both| both.1), Ok)?;
            // Who lies has bytes for any range.
            let mut bytes = file.get(range.start as usize..).unwrap_or_default().to_vec();
            bytes.resize((range.end - range.start) as usize, 0);
            Ok(self.given(wrong, number, bytes.into()))
        }
        .boxed()
    }

    fn layer<'a>(
        &'a self,
        layer: &'a Digest,
        range: Range<u64>,
        urgency: Urgency,
        wrong: &'a [Giver],
    ) -> Giving<'a> {
        async move {
            let number = self.asked.fetch_add(1, Ordering::SeqCst);
            let bytes = self.bytes(layer)?.0.slice(range.start as usize..range.end as usize);
            let bytes = self.answer(*layer, bytes, urgency).await?;
            Ok(self.given(wrong, number, bytes))
        }
        .boxed()
    }

    fn revoke<'a>(&'a self, layer: &'a Digest, _index: IndexId) -> BoxFuture<'a, ()> {
        async move { self.revoked.lock().unwrap().push(*layer) }.boxed()
    }
}
