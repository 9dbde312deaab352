//! A backend that answers from memory and remembers what it was asked.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use shoal_proto::{Digest, RegistryName};
use tokio::sync::Notify;

use crate::*;

/// What a blob's stream does after so many bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Twist {
    Fail(usize),
    End(usize),
    TooMuch,
    /// Waits for `Shelf::go`.
    Wait(usize),
}

#[derive(Clone)]
pub(super) struct Content {
    bytes: Bytes,
    twist: Option<Twist>,
}

#[derive(Default)]
pub(super) struct Events {
    pub(super) go: Notify,
    /// A stream was dropped.
    pub(super) dropped: Notify,
    reading: AtomicUsize,
    pub(super) most_reading: AtomicUsize,
}

#[derive(Default)]
pub(super) struct Shelf {
    pub(super) blobs: HashMap<Digest, Content>,
    pub(super) manifest: Option<Manifest>,
    pub(super) passed: Passed,
    pub(super) refusal: Option<Refusal>,
    pub(super) default: Option<&'static str>,
    pub(super) asked: Mutex<Vec<String>>,
    pub(super) callers: Mutex<Vec<Caller>>,
    pub(super) events: Arc<Events>,
}

pub(super) const PIECE: usize = 1000;

pub(super) fn digest_of(fill: u8) -> Digest {
    Digest::sha256([fill; 32])
}

/// Bytes that differ at every position, so that a shift shows.
pub(super) fn content(length: usize) -> Bytes {
    (0..length).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect()
}

impl Shelf {
    pub(super) fn with_blob(mut self, fill: u8, length: usize, twist: Option<Twist>) -> Self {
        self.blobs.insert(digest_of(fill), Content { bytes: content(length), twist });
        self
    }

    pub(super) fn with_manifest(mut self, fill: u8, bytes: &'static [u8], stale: Option<u64>) -> Self {
        self.manifest = Some(Manifest {
            digest: digest_of(fill),
            media_type: "application/vnd.oci.image.index.v1+json".into(),
            size: bytes.len() as u64,
            bytes: Some(Bytes::from_static(bytes)),
            source: Source::Swarm,
            stale: stale.map(Duration::from_secs),
        });
        self
    }

    pub(super) fn refusing(refusal: Refusal) -> Self {
        Self { refusal: Some(refusal), ..Self::default() }
    }

    pub(super) fn last_asked(&self) -> String {
        self.asked.lock().unwrap().last().cloned().unwrap_or_default()
    }

    fn note(&self, what: String, caller: &Caller) -> Result<(), Refusal> {
        self.asked.lock().unwrap().push(what);
        self.callers.lock().unwrap().push(caller.clone());
        self.refusal.clone().map_or(Ok(()), Err)
    }
}

impl Backend for Shelf {
    type Blob = ShelfBlob;

    fn default_registry(&self) -> RegistryName {
        self.default.unwrap_or("docker.io").parse().unwrap()
    }

    fn admit(&self, registry: &RegistryName) -> Result<RegistryName, Refusal> {
        match registry.as_str() {
            "index.docker.io" => Ok("docker.io".parse().unwrap()),
            "docker.io" | "registry.test" | "registry.test:5000" | "localhost" | "[::1]:5000" => {
                Ok(registry.clone())
            }
            _ => Err(Refusal::NotAllowed { registry: registry.clone() }),
        }
    }

    async fn manifest(
        &self,
        image: &ImageRef,
        accept: &Accept,
        caller: &Caller,
        head: bool,
    ) -> Result<Manifest, Refusal> {
        let ImageRef { registry, repository, reference } = image;
        let what = format!("manifest {registry} {repository} {reference} head={head} [{}]", accept.as_str());
        self.note(what, caller)?;
        let mut manifest = self.manifest.clone().ok_or(Refusal::ManifestUnknown)?;
        manifest.bytes = manifest.bytes.filter(|_| !head);
        Ok(manifest)
    }

    async fn blob(&self, blob: &BlobRef, caller: &Caller) -> Result<ShelfBlob, Refusal> {
        self.note(format!("blob {} {} {}", blob.registry, blob.repository, blob.digest), caller)?;
        let content = self.blobs.get(&blob.digest).cloned().ok_or(Refusal::BlobUnknown)?;
        Ok(ShelfBlob { content, events: Arc::clone(&self.events) })
    }

    async fn pass(&self, pass: &Pass, caller: &Caller) -> Result<Passed, Refusal> {
        let what = format!("{:?} {} {} [{}]", pass.kind, pass.registry, pass.repository, pass.query);
        self.note(what, caller)?;
        Ok(self.passed.clone())
    }
}

pub(super) struct ShelfBlob {
    content: Content,
    events: Arc<Events>,
}

/// Counts a stream that is being read.
struct Reading(Arc<Events>);

impl Reading {
    fn new(events: &Arc<Events>) -> Self {
        let now = events.reading.fetch_add(1, Ordering::SeqCst) + 1;
        events.most_reading.fetch_max(now, Ordering::SeqCst);
        Self(Arc::clone(events))
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.reading.fetch_sub(1, Ordering::SeqCst);
        self.0.dropped.notify_one();
    }
}

impl Blob for ShelfBlob {
    fn size(&self) -> u64 {
        self.content.bytes.len() as u64
    }

    fn source(&self) -> Source {
        Source::Origin
    }

    fn read(self, range: Range<u64>) -> impl Stream<Item = Result<Piece, ReadFailure>> + Send + 'static {
        let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let (mut bytes, twist) = (self.content.bytes.slice(range), self.content.twist);
        let (until, last) = match twist {
            Some(Twist::Fail(at)) => (at, Some(Err(ReadFailure::Unavailable("no peer has it".into())))),
            // One byte is still wanted when eight come.
            Some(Twist::TooMuch) => (bytes.len() - 1, Some(Ok(piece(Bytes::from_static(b"too much"))))),
            Some(Twist::End(at)) => (at, None),
            Some(Twist::Wait(_)) | None => (bytes.len(), None),
        };
        bytes.truncate(until);
        let reading = Reading::new(&self.events);
        let pieces: Vec<_> = bytes.chunks(PIECE).map(|part| Ok(piece(bytes.slice_ref(part)))).collect();
        let events = self.events;
        stream::iter(pieces.into_iter().chain(last)).enumerate().then(move |(index, item)| {
            let _ = &reading;
            let events = Arc::clone(&events);
            async move {
                if matches!(twist, Some(Twist::Wait(at)) if at == index * PIECE) {
                    events.go.notified().await;
                }
                item
            }
        })
    }
}

fn piece(bytes: Bytes) -> Piece {
    Piece { bytes, source: Source::Local }
}
