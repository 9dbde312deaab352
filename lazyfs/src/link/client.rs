//! What the filesystem's process asks the daemon.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use shoal_proto::{Digest, DigestError};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::UNDER_WAY;
use super::authorization::Authorization;
use super::connection::{self, Call, Event};
use super::messages::{
    self, Answer, Ask, CHECKED, Failed, FailureKind, ImageInfo, ImageRef, LayerInfo, ORIGIN, RangeRef, Report,
};
use super::tried::Tried;
use crate::index::IndexId;
use crate::source::{ClaimedIndex, LayerSource, SourceError, Urgency};

/// Why the daemon does not give what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// To ask again later may help.
    #[error("{0}")]
    Unavailable(String),
    #[error("{0}")]
    Refused(String),
    #[error("the daemon gave an answer that makes no sense: {0}")]
    Answer(&'static str),
    #[error("the daemon named a digest that is none")]
    Digest(#[from] DigestError),
    #[error("the link to the daemon is closed")]
    Closed,
}

/// An image as the daemon resolved it, for this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name with the digest of its manifest.
    pub name: String,
    pub manifest: Digest,
    pub config: Digest,
    /// The lowest layer first.
    pub layers: Vec<Layer>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    pub media_type: String,
    /// As the configuration claims. The index, where there is one, was built from a tar that has it.
    pub diff_id: Digest,
    pub chain_id: Digest,
    /// Or why there is none that may be used.
    pub index: Result<ClaimedIndex, String>,
}

/// Through which image a layer is read, and which index it has: what must be known of it after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub image: String,
    pub index: ClaimedIndex,
    /// Kept in memory only.
    pub authorization: Option<Authorization>,
    /// Whether the image can be read only with credentials that were borrowed from its pull.
    pub borrowed: bool,
}

/// The link to the daemon. Lasts over the daemon's restarts: what is under way then is asked again. Cheap to clone.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
}

struct Shared {
    events: mpsc::Sender<Event>,
    next: AtomicU64,
    under_way: Semaphore,
    served: Mutex<HashMap<Digest, Served>>,
    tried: Mutex<Tried>,
    came: Came,
}

/// Ranges of layers, one for each span, by where they came from.
#[derive(Debug, Default)]
struct Came {
    store: AtomicU64,
    registry: AtomicU64,
    peers: AtomicU64,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the connection that nobody waits any more, wherever the wait ends.
struct Waiting<'a> {
    id: u64,
    events: &'a mpsc::Sender<Event>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Where the queue is full the answer comes and is dropped.
        let _ = self.events.try_send(Event::Forget(self.id));
    }
}

impl Link {
    /// A link to the daemon that listens on this socket, now or later. Runs on the present runtime.
    pub fn open(socket: impl Into<PathBuf>) -> Self {
        let (events, inbox) = mpsc::channel(UNDER_WAY);
        tokio::spawn(connection::run(socket.into(), inbox));
        let shared = Shared {
            events,
            // 0 is the greeting's.
            next: AtomicU64::new(1),
            under_way: Semaphore::new(UNDER_WAY),
            served: Mutex::default(),
            tried: Mutex::default(),
            came: Came::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    async fn ask(&self, ask: Ask) -> Result<Answer, LinkError> {
        let shared = &self.shared;
        let _turn = shared.under_way.acquire().await.map_err(|_| LinkError::Closed)?;
        let id = shared.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { id, events: &shared.events };
        let call = Event::Call(id, Call { ask, answer });
        shared.events.send(call).await.map_err(|_| LinkError::Closed)?;
        let answer = answered.await.map_err(|_| LinkError::Closed)?;
        std::mem::forget(waiting);
        match answer {
            Answer::Failed(failed) => Err(failed.into()),
            answer => Ok(answer),
        }
    }

    /// What an image consists of. From now on its layers that have an index can be read.
    pub async fn resolve(&self, name: &str, authorization: Option<&str>) -> Result<Image, LinkError> {
        let own = authorization.map(str::to_owned);
        let mut info = self.image(ImageRef { name: name.to_owned(), authorization: own.clone() }).await?;
        let lent = info.borrowed.take();
        let borrowed = lent.is_some();
        let authorization = lent.or(own).map(Authorization::new);
        let image = Image::try_from(info)?;
        for layer in &image.layers {
            if let Ok(index) = &layer.index {
                let (image, authorization) = (image.name.clone(), authorization.clone());
                let new = Served { image, index: *index, authorization, borrowed };
                let mut served = lock(&self.shared.served);
                // What anybody may read through one image is not to depend on another one's credentials.
                let better = served
                    .get(&layer.digest)
                    .is_some_and(|known| known.index == new.index && new.borrowed && !known.borrowed);
                if !better {
                    served.insert(layer.digest, new);
                }
            }
        }
        Ok(image)
    }

    async fn image(&self, asked: ImageRef) -> Result<ImageInfo, LinkError> {
        match self.ask(Ask::Resolve(asked)).await? {
            Answer::Image(info) => Ok(info),
            _ => Err(LinkError::Answer("no image")),
        }
    }

    /// Borrows again for those of these layers that cannot be read otherwise, where this process has nothing: it was
    /// started anew.
    pub(crate) async fn borrow_again(&self, layers: &[Digest]) {
        let lacks = |served: &Served| served.borrowed && served.authorization.is_none();
        let lacking = layers.iter().filter_map(|layer| self.served(layer)).filter(lacks);
        for name in lacking.map(|served| served.image).collect::<HashSet<_>>() {
            match self.image(ImageRef { name: name.clone(), authorization: None }).await {
                Ok(info) => {
                    let lent = info.borrowed.map(Authorization::new);
                    let mut served = lock(&self.shared.served);
                    let own = served.values_mut().filter(|served| served.image == name && lacks(served));
                    own.for_each(|served| served.authorization.clone_from(&lent));
                }
                Err(error) => {
                    tracing::warn!(image = name, %error, "it must be pulled again before more of it can be read");
                }
            }
        }
    }

    /// Forgets what was borrowed for a layer.
    pub(crate) fn give_back(&self, layer: &Digest) {
        if let Some(served) = lock(&self.shared.served).get_mut(layer).filter(|served| served.borrowed) {
            served.authorization = None;
        }
    }

    /// Tells the daemon, if it is there, what the filesystem does. Where the bytes came from is filled in here.
    pub fn report(&self, report: Report) {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Came { store, registry, peers } = &self.shared.came;
        let report = Report {
            spans_from_store: get(store),
            spans_from_registry: get(registry),
            spans_from_peers: get(peers),
            ..report
        };
        // Where the queue is full this one is left out.
        let _ = self.shared.events.try_send(Event::Tell(Ask::Report(report)));
    }

    /// Lets a layer be read that was resolved before this process started.
    pub fn serve(&self, layer: Digest, served: Served) {
        lock(&self.shared.served).insert(layer, served);
    }

    /// Through which image a layer is read.
    pub fn served(&self, layer: &Digest) -> Option<Served> {
        lock(&self.shared.served).get(layer).cloned()
    }

    /// Lets a layer be read no more.
    pub fn forget(&self, layer: &Digest) {
        lock(&self.shared.served).remove(layer);
    }

    async fn range(
        &self,
        layer: &Digest,
        of_index: bool,
        range: Range<u64>,
        urgency: Urgency,
    ) -> Result<Bytes, LinkError> {
        let Some(served) = self.served(layer) else {
            return Err(LinkError::Refused(format!("{layer} belongs to no image that was resolved")));
        };
        let index = of_index.then_some(served.index.file);
        let key = (index.unwrap_or(*layer), range.clone());
        let ask = Ask::Range(RangeRef {
            image: Some(ImageRef {
                name: served.image,
                authorization: served.authorization.map(|shown| shown.expose().to_owned()),
            }),
            layer: layer.to_string(),
            index: index.map(|file| file.to_string()),
            start: range.start,
            end: range.end,
            urgency: messages::Urgency::from(urgency).into(),
            wrong: lock(&self.shared.tried).of(&key),
        });
        let Answer::Range(got) = self.ask(ask).await? else { return Err(LinkError::Answer("no bytes")) };
        if got.bytes.len() as u64 != range.end.saturating_sub(range.start) {
            return Err(LinkError::Answer("too few or too many bytes"));
        }
        let Came { store, registry, peers } = &self.shared.came;
        let came = match got.source {
            CHECKED => store,
            ORIGIN => registry,
            _ => peers,
        };
        if !of_index {
            came.fetch_add(1, Ordering::Relaxed);
        }
        if got.source != CHECKED {
            lock(&self.shared.tried).note(key, got.source);
        }
        Ok(got.bytes)
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
    ) -> BoxFuture<'a, Result<Bytes, SourceError>> {
        async move { self.range(layer, true, range, urgency).await.map_err(|error| about(layer, &error)) }
            .boxed()
    }

    fn layer<'a>(
        &'a self,
        layer: &'a Digest,
        range: Range<u64>,
        urgency: Urgency,
    ) -> BoxFuture<'a, Result<Bytes, SourceError>> {
        async move { self.range(layer, false, range, urgency).await.map_err(|error| about(layer, &error)) }
            .boxed()
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

impl From<Failed> for LinkError {
    fn from(failed: Failed) -> Self {
        match failed.kind() {
            FailureKind::Unavailable => Self::Unavailable(failed.text),
            FailureKind::Refused | FailureKind::Invalid => Self::Refused(failed.text),
        }
    }
}

impl TryFrom<ImageInfo> for Image {
    type Error = LinkError;

    fn try_from(info: ImageInfo) -> Result<Self, LinkError> {
        Ok(Self {
            name: info.name,
            manifest: info.manifest.parse()?,
            config: info.config.parse()?,
            layers: info.layers.into_iter().map(Layer::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<LayerInfo> for Layer {
    type Error = LinkError;

    fn try_from(info: LayerInfo) -> Result<Self, LinkError> {
        let index = match info.index {
            Some(messages::Index::Known(index)) => {
                let id = index.id.as_ref().try_into().map_err(|_| LinkError::Answer("no index id"))?;
                Ok(ClaimedIndex { id: IndexId(id), file: index.file.parse()?, len: index.len })
            }
            Some(messages::Index::Missing(why)) => Err(why),
            None => return Err(LinkError::Answer("nothing about an index")),
        };
        Ok(Self {
            digest: info.digest.parse()?,
            size: info.size,
            media_type: info.media_type,
            diff_id: info.diff_id.parse()?,
            chain_id: info.chain_id.parse()?,
            index,
        })
    }
}
