//! What the filesystem's process asks the daemon.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use shoal_proto::Digest;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::authorization::Authorization;
use super::connection::{self, Call, Event};
use super::messages::{Answer, Ask, ImageInfo, ImageRef, Report};
use super::source::Came;
use super::{Image, LinkError, UNDER_WAY};
use crate::lock::lock;
use crate::source::ClaimedIndex;

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
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    events: mpsc::Sender<Event>,
    next: AtomicU64,
    under_way: Semaphore,
    served: Mutex<HashMap<Digest, Served>>,
    pub(super) came: Came,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
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
            came: Came::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(super) async fn ask(&self, ask: Ask) -> Result<Answer, LinkError> {
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
        let report = self.shared.came.added_to(report);
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
}
