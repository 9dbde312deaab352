//! From a caller's reference to a digest, a size and the right to read it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use shoal_origin::Origin;
use shoal_proto::message::{NodeMessage, TagRecord};
use shoal_proto::{Digest, Reference, RegistryName, Repository, Tag};
use shoal_registry_proxy::{Accept, Caller, Refusal};
use shoal_store::{Store, StoreError, Tag as StoredTag};
use tracing::warn;

use super::access::{Access, AskError, Grant};
use super::backend::MAX_MANIFEST;
use super::manifest::{Child, Children};
use super::refusals::{Subject, refusal};
use super::tags::{Resolved, Tags};
use crate::swarm::TrackerQueries;

/// What a manifest is where nobody said: registries must accept and deliver this one.
pub(super) const DEFAULT_MEDIA_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Resolves what callers name. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Resolver {
    access: Access,
    tags: Tags,
    store: Store,
    tracker: TrackerQueries,
}

impl Resolver {
    pub(crate) fn new(access: Access, tags: Tags, store: Store, tracker: TrackerQueries) -> Self {
        Self { access, tags, store, tracker }
    }

    pub(crate) async fn tag(
        &self,
        origin: &Origin,
        repository: &Repository,
        tag: &Tag,
        accept: &Accept,
        caller: &Caller,
    ) -> Result<Resolved, Refusal> {
        let resolved = self.tags.resolve(origin, repository, tag, accept, caller).await?;
        if let Some(size) = resolved.size {
            self.note_manifest(origin.name(), repository, &resolved, size);
        }
        Ok(resolved)
    }

    /// A manifest by digest. That this repository holds it is known from an index or tag that was read through
    /// it; otherwise the origin is asked: to possess a digest is no right to read.
    pub(crate) async fn manifest(
        &self,
        origin: &Origin,
        repository: &Repository,
        digest: &Digest,
        accept: &Accept,
        caller: &Caller,
    ) -> Result<Resolved, Refusal> {
        let known = self.known(origin.name(), repository, digest);
        if let Some((size, media_type)) = known.clone()
            && let Some(grant) = self.access.fresh(origin.name(), repository, caller)
        {
            return Ok(Resolved { digest: *digest, size: Some(size), media_type, grant, stale: None });
        }
        let reference = Reference::Digest(*digest);
        let accept = header(accept);
        let question = |identity| {
            let (reference, accept) = (reference.clone(), accept.clone());
            async move { origin.head_manifest(repository, &reference, &accept, &identity).await }
        };
        match self.access.ask(origin, repository, caller, question).await {
            Ok((grant, head)) => {
                let media_type = head.media_type.unwrap_or_else(|| DEFAULT_MEDIA_TYPE.to_owned());
                let resolved = Resolved { digest: *digest, size: head.size, media_type, grant, stale: None };
                if let Some(size) = resolved.size {
                    self.note_manifest(origin.name(), repository, &resolved, size);
                }
                Ok(resolved)
            }
            Err(AskError::Refused(error)) => Err(refusal(&error, Subject::Manifest)),
            Err(AskError::Outage(error)) => {
                let why = (&error, Subject::Manifest);
                let grant = self.access.during_outage(origin.name(), repository, caller, why).await?;
                let told = match known {
                    Some(known) => Some(known),
                    None => self.known_in_cluster(origin.name(), repository, digest).await,
                };
                let (size, media_type) = told.ok_or_else(|| refusal(&error, Subject::Manifest))?;
                let resolved = Resolved { digest: *digest, size: Some(size), media_type, grant, stale: None };
                self.note_manifest(origin.name(), repository, &resolved, size);
                Ok(resolved)
            }
        }
    }

    /// A blob's size, and as whom the origin gives it.
    pub(crate) async fn blob(
        &self,
        origin: &Origin,
        repository: &Repository,
        digest: &Digest,
        caller: &Caller,
    ) -> Result<(Grant, u64), Refusal> {
        let known = look_up(self.store.link(origin.name(), repository.as_str(), digest))
            .filter(|size| digest.fits_size(*size));
        if let Some(size) = known
            && let Some(grant) = self.access.fresh(origin.name(), repository, caller)
        {
            return Ok((grant, size));
        }
        let question = |identity| async move { origin.head_blob(repository, digest, &identity).await };
        match self.access.ask(origin, repository, caller, question).await {
            Ok((grant, size)) => {
                tokio::task::block_in_place(|| {
                    self.note_link(origin.name(), repository, digest, size, grant.public);
                });
                Ok((grant, size))
            }
            Err(AskError::Refused(error)) => Err(refusal(&error, Subject::Blob)),
            Err(AskError::Outage(error)) => {
                let why = (&error, Subject::Blob);
                let grant = self.access.during_outage(origin.name(), repository, caller, why).await?;
                Ok((grant, known.ok_or_else(|| refusal(&error, Subject::Blob))?))
            }
        }
    }

    /// The length of a manifest that the registry did not tell.
    pub(crate) async fn measure(
        &self,
        origin: &Origin,
        repository: &Repository,
        resolved: &Resolved,
    ) -> Result<u64, Refusal> {
        let reference = Reference::Digest(resolved.digest);
        let accept: Vec<HeaderValue> = HeaderValue::from_str(&resolved.media_type).into_iter().collect();
        let body = origin
            .get_manifest(repository, &reference, &accept, MAX_MANIFEST, &resolved.grant.identity)
            .await;
        let size = body.map_err(|error| refusal(&error, Subject::Manifest))?.bytes.len() as u64;
        self.note_manifest(origin.name(), repository, resolved, size);
        Ok(size)
    }

    /// Notes what a manifest that was read through this repository refers to.
    pub(crate) async fn note_children(
        &self,
        origin: &Origin,
        repository: &Repository,
        grant: &Grant,
        children: &Children,
    ) {
        let (this, registry, repository) = (self.clone(), origin.name().clone(), repository.clone());
        let (children, public) = (children.clone(), grant.public);
        let note = move || {
            for blob in &children.blobs {
                this.note_link(&registry, &repository, &blob.digest, blob.size, public);
            }
            for manifest in &children.manifests {
                this.note_link(&registry, &repository, &manifest.digest, manifest.size, public);
                this.keep_manifest(&registry, &repository, manifest, public);
            }
        };
        if tokio::task::spawn_blocking(note).await.is_err() {
            warn!("the node stops while it notes a manifest's children");
        }
    }

    /// Size and media type of a manifest that this repository was seen to hold.
    fn known(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        digest: &Digest,
    ) -> Option<(u64, String)> {
        let found = look_up(self.store.tag(registry, repository.as_str(), &digest.to_string()))?;
        (found.digest == *digest).then_some((found.size, found.media_type))
    }

    async fn known_in_cluster(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        digest: &Digest,
    ) -> Option<(u64, String)> {
        let record = self.tracker.tag(registry, repository, &digest.to_string()).await?;
        (record.digest == *digest).then(|| (record.size, record.media_type.into()))
    }

    fn note_manifest(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        resolved: &Resolved,
        size: u64,
    ) {
        // Told once: it is known the next time.
        if self.known(registry, repository, &resolved.digest).is_some() {
            return;
        }
        let Resolved { digest, media_type, grant, .. } = resolved;
        let child = Child { digest: *digest, size, media_type: media_type.clone() };
        tokio::task::block_in_place(|| {
            self.note_link(registry, repository, digest, size, grant.public);
            self.keep_manifest(registry, repository, &child, grant.public);
        });
        if grant.public {
            self.tracker.tell(NodeMessage::Tag(TagRecord {
                registry: registry.clone(),
                repository: repository.as_str().into(),
                tag: digest.to_string().into(),
                digest: *digest,
                size,
                media_type: media_type.as_str().into(),
                age: Duration::ZERO,
            }));
        }
    }

    /// Kept like a tag whose name is the digest, so that another node's client can have it by digest when the
    /// origin is gone.
    fn keep_manifest(&self, registry: &RegistryName, repository: &Repository, child: &Child, public: bool) {
        if self.known(registry, repository, &child.digest).is_some() {
            return;
        }
        let meaning = StoredTag {
            digest: child.digest,
            size: child.size,
            media_type: child.media_type.clone(),
            resolved_at: unix_now(),
            public,
        };
        noted(self.store.put_tag(registry, repository.as_str(), &child.digest.to_string(), &meaning));
    }

    fn note_link(
        &self,
        registry: &RegistryName,
        repository: &Repository,
        digest: &Digest,
        size: u64,
        public: bool,
    ) {
        let public = public.then_some(PUBLIC);
        for repository in [Some(repository.as_str()), public].into_iter().flatten() {
            if look_up(self.store.link(registry, repository, digest)) != Some(size) {
                noted(self.store.put_link(registry, repository, digest, size));
            }
        }
    }
}

/// No repository has this name: a link under it says that the registry gives the blob to anybody.
pub(super) const PUBLIC: &str = "";

/// A fact that cannot be read is a fact that is not known; the origin is asked.
pub(super) fn look_up<T>(found: Result<Option<T>, StoreError>) -> Option<T> {
    found.unwrap_or_else(|error| {
        warn!(%error, "cannot read what is known of an image");
        None
    })
}

/// A fact that cannot be kept is only missed in an outage.
pub(super) fn noted(kept: Result<(), StoreError>) {
    if let Err(error) = kept {
        warn!(%error, "cannot keep what is known of an image");
    }
}

pub(super) fn header(accept: &Accept) -> Vec<HeaderValue> {
    HeaderValue::from_str(accept.as_str()).into_iter().filter(|value| !value.is_empty()).collect()
}

/// Seconds since 1970 by this machine's clock.
pub(super) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How long ago that was; a time in the future is now.
pub(super) fn age_of(at: u64) -> Duration {
    Duration::from_secs(unix_now().saturating_sub(at))
}
