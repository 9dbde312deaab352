//! What all tasks of an endpoint share.

use std::sync::Arc;
use std::time::Duration;

use shoal_proto::NodeId;
use tokio::sync::{mpsc, watch};

use super::chunk_memory::ChunkMemory;
use super::links::{Instance, Links};
use crate::{ChunkServer, LinkEvent, RateLimit};

pub(super) struct Shared {
    pub(super) node: NodeId,
    pub(super) instance: Instance,
    pub(super) links: Links,
    pub(super) server: Arc<dyn ChunkServer>,
    pub(super) events: mpsc::Sender<LinkEvent>,
    pub(super) upload: Arc<RateLimit>,
    pub(super) download: Arc<RateLimit>,
    pub(super) stall: Duration,
    pub(super) memory: ChunkMemory,
    pub(super) uploads: watch::Sender<Uploads>,
}

/// Requests that are being answered, and whether more are taken.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uploads {
    running: usize,
    closing: bool,
}

/// One request that is being answered.
pub(super) struct Upload<'a>(&'a watch::Sender<Uploads>);

impl Drop for Upload<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|uploads| uploads.running -= 1);
    }
}

impl Shared {
    /// Waits where the receiver is behind, and with it the link whose event this is. Nobody listens any more
    /// when the node shuts down.
    pub(super) async fn tell(&self, event: LinkEvent) {
        let _ = self.events.send(event).await;
    }

    /// `None` while closing.
    pub(super) fn start_upload(&self) -> Option<Upload<'_>> {
        let started = self.uploads.send_if_modified(|uploads| {
            uploads.running += usize::from(!uploads.closing);
            !uploads.closing
        });
        started.then_some(Upload(&self.uploads))
    }

    /// Takes no more requests; returns when those that are being answered have ended.
    pub(super) async fn end_uploads(&self) {
        self.uploads.send_modify(|uploads| uploads.closing = true);
        let mut uploads = self.uploads.subscribe();
        // Fails only when the sender, which `self` holds, is gone.
        let _ = uploads.wait_for(|uploads| uploads.running == 0).await;
    }
}
