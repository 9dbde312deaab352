//! What a tag names: the origin's answer, used for a moment, and kept for when the origin is gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoal_origin::{IdentityKey, ManifestHead, Origin, OriginError};
use shoal_proto::message::{NodeMessage, TagRecord};
use shoal_proto::{Digest, Reference, RegistryName, Repository, Tag};
use shoal_registry_proxy::{Accept, Caller, Refusal};
use shoal_store::{Store, Tag as StoredTag};
use tokio::sync::Mutex as AsyncMutex;
use tracing::info;

use super::access::{Access, AskError, Grant};
use super::backend::MAX_MANIFEST;
use super::identity::candidates;
use super::refusals::{Subject, refusal};
use super::resolve::{DEFAULT_MEDIA_TYPE, age_of, header, look_up, noted, unix_now};
use crate::config::Freshness;
use crate::metrics::Metrics;
use crate::swarm::TrackerQueries;

/// Answers kept for `tag_ttl`; a burst of pulls names some hundred tags at once.
const MAX_RECENT: usize = 4096;

/// What a reference names.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub digest: Digest,
    /// In bytes; some registries do not say.
    pub size: Option<u64>,
    pub media_type: String,
    pub grant: Grant,
    /// The answer's age, where the origin could not be asked.
    pub stale: Option<Duration>,
}

/// A caller's question. Answers differ by what the caller accepts and by who it is.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    registry: RegistryName,
    repository: Repository,
    tag: Tag,
    accept: Accept,
    caller: IdentityKey,
}

/// One answer, and the lock that makes those who ask at the same time wait for it.
type Slot = Arc<AsyncMutex<Option<(Instant, Resolved)>>>;

/// Resolves tags.
#[derive(Clone)]
pub(crate) struct Tags {
    access: Access,
    store: Store,
    tracker: TrackerQueries,
    freshness: Freshness,
    metrics: Metrics,
    recent: Arc<Mutex<HashMap<Key, Slot>>>,
}

impl std::fmt::Debug for Tags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tags").finish_non_exhaustive()
    }
}

impl Tags {
    pub(crate) fn new(
        access: Access,
        store: Store,
        tracker: TrackerQueries,
        freshness: Freshness,
        metrics: Metrics,
    ) -> Self {
        Self { access, store, tracker, freshness, metrics, recent: Arc::default() }
    }

    /// What the tag names now, or named last if the origin cannot be asked.
    pub(crate) async fn resolve(
        &self,
        origin: &Origin,
        repository: &Repository,
        tag: &Tag,
        accept: &Accept,
        caller: &Caller,
    ) -> Result<Resolved, Refusal> {
        let [_, own] = candidates(caller);
        let key = Key {
            registry: origin.name().clone(),
            repository: repository.clone(),
            tag: tag.clone(),
            accept: accept.clone(),
            caller: own.key(),
        };
        let slot = self.slot(key);
        let mut answer = slot.lock().await;
        if let Some((when, resolved)) = answer.as_ref()
            && when.elapsed() < self.freshness.tag_ttl
        {
            return Ok(resolved.clone());
        }
        let resolved = self.ask(origin, repository, tag, accept, caller).await?;
        *answer = Some((Instant::now(), resolved.clone()));
        Ok(resolved)
    }

    fn slot(&self, key: Key) -> Slot {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= MAX_RECENT {
            // Whoever holds a slot keeps it; the next to ask only asks the origin once more.
            recent.clear();
        }
        recent.entry(key).or_default().clone()
    }

    async fn ask(
        &self,
        origin: &Origin,
        repository: &Repository,
        tag: &Tag,
        accept: &Accept,
        caller: &Caller,
    ) -> Result<Resolved, Refusal> {
        let reference = Reference::Tag(tag.clone());
        let question = |identity| {
            let (repository, reference) = (repository.clone(), reference.clone());
            let accept = header(accept);
            async move { head_with_digest(origin, &repository, &reference, &accept, &identity).await }
        };
        match self.access.ask(origin, repository, caller, question).await {
            Ok((grant, (digest, head))) => {
                let resolved = Resolved {
                    digest,
                    size: head.size,
                    media_type: head.media_type.unwrap_or_else(|| DEFAULT_MEDIA_TYPE.to_owned()),
                    grant,
                    stale: None,
                };
                self.keep(origin.name(), repository, tag, &resolved);
                Ok(resolved)
            }
            Err(AskError::Refused(error)) => Err(refusal(&error, Subject::Manifest)),
            Err(AskError::Outage(error)) => self.stale(origin, repository, tag, accept, caller, error).await,
        }
    }

    fn keep(&self, registry: &RegistryName, repository: &Repository, tag: &Tag, resolved: &Resolved) {
        let Some(size) = resolved.size else { return };
        let stored = StoredTag {
            digest: resolved.digest,
            size,
            media_type: resolved.media_type.clone(),
            resolved_at: unix_now(),
            public: resolved.grant.public,
        };
        tokio::task::block_in_place(|| {
            noted(self.store.put_tag(registry, repository.as_str(), tag.as_str(), &stored));
        });
        if resolved.grant.public {
            self.tracker.tell(NodeMessage::Tag(TagRecord {
                registry: registry.clone(),
                repository: repository.as_str().into(),
                tag: tag.as_str().into(),
                digest: resolved.digest,
                size,
                media_type: resolved.media_type.as_str().into(),
                age: Duration::ZERO,
            }));
        }
    }

    /// The last answer known here or in the cluster, to callers that may read the repository.
    async fn stale(
        &self,
        origin: &Origin,
        repository: &Repository,
        tag: &Tag,
        accept: &Accept,
        caller: &Caller,
        error: OriginError,
    ) -> Result<Resolved, Refusal> {
        let gone = || refusal(&error, Subject::Manifest);
        let registry = origin.name();
        // Until the origin answers, only those whom it let in before get what is cached.
        let why = (&error, Subject::Manifest);
        let grant = self.access.during_outage(registry, repository, caller, why).await?;
        let here = look_up(self.store.tag(registry, repository.as_str(), tag.as_str()));
        let here = here.map(|tag| (tag.digest, tag.size, tag.media_type, age_of(tag.resolved_at)));
        let there = self.tracker.tag(registry, repository, tag.as_str()).await;
        let there = there.map(|tag| (tag.digest, tag.size, String::from(tag.media_type), tag.age));
        if let Some((digest, size, media_type, age)) = &there
            && here.as_ref().is_none_or(|(.., known)| age < known)
        {
            // By the next time nobody may be left to tell. Not passed on: that is for who asked the origin.
            let resolved_at = unix_now().saturating_sub(age.as_secs());
            let told = StoredTag {
                digest: *digest,
                size: *size,
                media_type: media_type.clone(),
                resolved_at,
                public: false,
            };
            tokio::task::block_in_place(|| {
                noted(self.store.put_tag(registry, repository.as_str(), tag.as_str(), &told));
            });
        }
        // The later answer counts, whoever got it.
        let last = here.into_iter().chain(there).min_by_key(|(.., age)| *age);
        let (digest, size, media_type, age) = last.ok_or_else(gone)?;
        if age > self.freshness.max_stale || !accept.allows(&media_type) {
            return Err(gone());
        }
        info!(%registry, %repository, %tag, %error, age_s = age.as_secs(), "tag answered from its last answer");
        self.metrics.stale_tags.inc();
        Ok(Resolved { digest, size: Some(size), media_type, grant, stale: Some(age) })
    }
}

/// HEAD, and, from registries that name no digest in its answer, GET.
async fn head_with_digest(
    origin: &Origin,
    repository: &Repository,
    reference: &Reference,
    accept: &[http::HeaderValue],
    identity: &shoal_origin::Identity,
) -> Result<(Digest, ManifestHead), OriginError> {
    let head = origin.head_manifest(repository, reference, accept, identity).await?;
    if let Some(digest) = head.digest {
        return Ok((digest, head));
    }
    let body = origin.get_manifest(repository, reference, accept, MAX_MANIFEST, identity).await?;
    let size = Some(body.bytes.len() as u64);
    Ok((body.digest, ManifestHead { digest: Some(body.digest), size, media_type: body.media_type }))
}
