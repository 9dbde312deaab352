//! What this node found out about open repositories, told anew to a tracker that knows nothing.

use shoal_proto::message::{NodeMessage, TagRecord};
use shoal_store::Store;
use tracing::warn;

use super::resolve::{age_of, unix_now};
use crate::config::Freshness;
use crate::swarm::TrackerLink;

/// Facts of one kind that are told at most: they must fit into the session's queue beside all else.
const MOST: usize = 1000;

/// Tells a tracker what the cluster needs to know in an outage of the origin.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) store: Store,
    pub(crate) freshness: Freshness,
}

impl Facts {
    /// Reads the facts and sends them. Blocks while it reads.
    pub(crate) fn tell(&self, tracker: &TrackerLink) {
        let since = unix_now().saturating_sub(self.freshness.max_stale.as_secs());
        let open = self.store.open_repositories(since, MOST).unwrap_or_else(|error| {
            warn!(%error, "cannot tell the tracker which repositories are open");
            Vec::new()
        });
        for (registry, repository) in open {
            tracker.send(NodeMessage::Anonymous { registry, repository: repository.into(), open: true });
        }
        let tags = self.store.public_tags(MOST).unwrap_or_else(|error| {
            warn!(%error, "cannot tell the tracker what tags mean");
            Vec::new()
        });
        for (registry, repository, tag, meaning) in tags {
            tracker.send(NodeMessage::Tag(TagRecord {
                registry,
                repository: repository.into(),
                tag: tag.into(),
                digest: meaning.digest,
                size: meaning.size,
                media_type: meaning.media_type.into(),
                age: age_of(meaning.resolved_at),
            }));
        }
    }
}
