//! The mirror behind the proxy: resolves, authorises, and finds bytes.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::HeaderValue;
use shoal_origin::{Kind, Origin, Origins, PassPath};
use shoal_proto::{Digest, Reference, RegistryName, Repository};
use shoal_registry_proxy::{
    Accept, Backend, Blob, BlobRef, Caller, ImageRef, Manifest, Pass, PassKind, Passed, Piece, ReadFailure,
    Refusal, Source,
};
use tracing::{debug, warn};

use super::access::{Access, AskError, Grant};
use super::manifest::{Child, Children};
use super::refusals::{Subject, refusal};
use super::resolve::Resolver;
use super::share::may_share;
use super::tags::Resolved;
use crate::blobs::{BlobService, OriginContext, Wanted, reading};
use crate::lazy::Filesystems;

/// The longest manifest, in bytes: twice what registries must take.
pub(super) const MAX_MANIFEST: u64 = 8 << 20;

/// Answers the proxy.
#[derive(Clone, Debug)]
pub(crate) struct Mirror {
    origins: Origins,
    access: Access,
    resolver: Resolver,
    blobs: BlobService,
    filesystems: Filesystems,
}

/// A manifest, and as whom the blobs that it lists are read.
#[derive(Debug)]
pub(crate) struct ManifestAlone {
    pub(crate) digest: Digest,
    pub(crate) bytes: Bytes,
    origin: Arc<Origin>,
    context: OriginContext,
}

/// A blob that was found for a caller.
#[derive(Debug)]
pub(crate) struct FoundBlob {
    blobs: BlobService,
    wanted: Wanted,
}

impl Mirror {
    pub(crate) fn new(
        origins: Origins,
        access: Access,
        resolver: Resolver,
        blobs: BlobService,
        filesystems: Filesystems,
    ) -> Self {
        Self { origins, access, resolver, blobs, filesystems }
    }

    fn origin(&self, registry: &RegistryName) -> Result<Arc<Origin>, Refusal> {
        self.origins.admit(registry).map_err(|error| {
            debug!(%registry, %error, "registry refused");
            Refusal::NotAllowed { registry: registry.clone() }
        })
    }

    fn source(&self, digest: &Digest, size: u64) -> Source {
        if self.blobs.is_local(digest, size) { Source::Local } else { Source::Origin }
    }

    /// All bytes of a manifest or configuration, by the way of all blobs.
    async fn content(&self, wanted: Wanted) -> Result<(Bytes, Source), Refusal> {
        let size = wanted.size;
        let mut source = Source::Local;
        let mut bytes = BytesMut::new();
        let mut pieces = std::pin::pin!(reading(self.blobs.clone(), wanted, 0..size));
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|failure| unread(&failure))?;
            source = piece.source;
            bytes.extend_from_slice(&piece.bytes);
        }
        Ok((bytes.freeze(), source))
    }

    /// Notes what the manifest refers to, and begins to fetch an image's blobs.
    async fn follow(&self, origin: &Origin, repository: &Repository, resolved: &Resolved, manifest: &Bytes) {
        let children = Children::of(manifest);
        self.resolver.note_children(origin, repository, &resolved.grant, &children).await;
        // A filesystem may show the layers, and what it reads of them would wait for what nobody asked for. Those that
        // it does not show are fetched as they are read.
        if self.filesystems.any() {
            return;
        }
        // An index lists platforms that nobody here may want; the manifest that is asked for next tells.
        if !children.manifests.is_empty() {
            return;
        }
        let wanted = children.blobs.iter().filter(|blob| blob.size > 0).map(|blob: &Child| Wanted {
            digest: blob.digest,
            size: blob.size,
            registry: origin.name().clone(),
            context: OriginContext {
                repository: repository.clone(),
                kind: Kind::Blob,
                identity: resolved.grant.identity.clone(),
                fallback: resolved.grant.fallback.clone(),
            },
        });
        if let Err(error) = self.blobs.prefetch(wanted.collect()).await {
            // Whoever reads a layer is told of it then.
            warn!(digest = %resolved.digest, %error, "cannot begin to fetch the image's layers");
        }
    }

    /// What an image's name means, and the right to read it.
    async fn located(
        &self,
        image: &ImageRef,
        accept: &Accept,
        caller: &Caller,
    ) -> Result<(Arc<Origin>, Repository, Resolved, Wanted), Refusal> {
        let origin = self.origin(&image.registry)?;
        let repository = origin.canonical_repository(&image.repository);
        let resolved = match &image.reference {
            Reference::Tag(tag) => self.resolver.tag(&origin, &repository, tag, accept, caller).await?,
            Reference::Digest(digest) => {
                self.resolver.manifest(&origin, &repository, digest, accept, caller).await?
            }
        };
        let size = match resolved.size {
            Some(size) => size,
            None => self.resolver.measure(&origin, &repository, &resolved).await?,
        };
        if size == 0 {
            return Err(Refusal::ManifestInvalid { reason: "the registry says that it has no bytes".into() });
        }
        if size > MAX_MANIFEST {
            let reason = format!("{size} bytes are more than {MAX_MANIFEST}, the most that is handled");
            return Err(Refusal::ManifestInvalid { reason });
        }
        let context = manifest_context(&repository, &resolved)?;
        may_share(self.blobs.store(), &origin, &context, &resolved.digest).await?;
        let wanted = Wanted { digest: resolved.digest, size, registry: origin.name().clone(), context };
        Ok((origin, repository, resolved, wanted))
    }

    /// A manifest for somebody who reads parts of the image: nothing that it lists is fetched.
    pub(crate) async fn manifest_alone(
        &self,
        image: &ImageRef,
        accept: &Accept,
        caller: &Caller,
    ) -> Result<ManifestAlone, Refusal> {
        let (origin, repository, resolved, wanted) = self.located(image, accept, caller).await?;
        let (bytes, _) = self.content(wanted).await?;
        self.resolver.note_children(&origin, &repository, &resolved.grant, &Children::of(&bytes)).await;
        let Grant { identity, fallback, .. } = resolved.grant;
        let context = OriginContext { repository, kind: Kind::Blob, identity, fallback };
        Ok(ManifestAlone { digest: resolved.digest, bytes, origin, context })
    }

    /// A blob that a [`ManifestAlone`] lists, for its reader.
    pub(crate) async fn listed(
        &self,
        manifest: &ManifestAlone,
        digest: Digest,
        size: u64,
    ) -> Result<Wanted, Refusal> {
        let (origin, context) = (&manifest.origin, manifest.context.clone());
        may_share(self.blobs.store(), origin, &context, &digest).await?;
        Ok(Wanted { digest, size, registry: origin.name().clone(), context })
    }

    /// All bytes of a small blob.
    pub(crate) async fn small(&self, wanted: Wanted) -> Result<Bytes, Refusal> {
        if wanted.size > MAX_MANIFEST {
            let reason = format!("{} bytes are more than {MAX_MANIFEST}", wanted.size);
            return Err(Refusal::ManifestInvalid { reason });
        }
        self.content(wanted).await.map(|(bytes, _)| bytes)
    }

    async fn found_manifest(
        &self,
        image: &ImageRef,
        accept: &Accept,
        caller: &Caller,
        head: bool,
    ) -> Result<Manifest, Refusal> {
        let (origin, repository, resolved, wanted) = self.located(image, accept, caller).await?;
        let size = wanted.size;
        let (bytes, source) = if head {
            (None, self.source(&resolved.digest, size))
        } else {
            let (bytes, source) = self.content(wanted).await?;
            self.follow(&origin, &repository, &resolved, &bytes).await;
            (Some(bytes), source)
        };
        let Resolved { digest, media_type, stale, .. } = resolved;
        Ok(Manifest { digest, media_type, size, bytes, source, stale })
    }

    async fn found_blob(&self, blob: &BlobRef, caller: &Caller) -> Result<FoundBlob, Refusal> {
        let origin = self.origin(&blob.registry)?;
        let repository = origin.canonical_repository(&blob.repository);
        let (grant, size): (Grant, u64) =
            self.resolver.blob(&origin, &repository, &blob.digest, caller).await?;
        if !blob.digest.fits_size(size) {
            let reason =
                format!("the registry says that {} has {size} bytes, which it cannot have", blob.digest);
            return Err(Refusal::Unavailable { reason });
        }
        let Grant { identity, fallback, .. } = grant;
        let context = OriginContext { repository, kind: Kind::Blob, identity, fallback };
        may_share(self.blobs.store(), &origin, &context, &blob.digest).await?;
        let wanted = Wanted { digest: blob.digest, size, registry: origin.name().clone(), context };
        Ok(FoundBlob { blobs: self.blobs.clone(), wanted })
    }

    async fn passed(&self, pass: &Pass, caller: &Caller) -> Result<Passed, Refusal> {
        let origin = self.origin(&pass.registry)?;
        let repository = origin.canonical_repository(&pass.repository);
        let path = match pass.kind {
            PassKind::Tags => PassPath::Tags,
            PassKind::Referrers(digest) => PassPath::Referrers(digest),
        };
        let (asked, name, path, query) = (origin.clone(), repository.clone(), path, pass.query.clone());
        let question = move |identity| {
            let (origin, repository, path, query) =
                (asked.clone(), name.clone(), path.clone(), query.clone());
            async move { origin.pass(&repository, &path, &query, &identity).await }
        };
        let asked = self.access.ask(&origin, &repository, caller, question).await;
        let (_, passed) = asked.map_err(|error| {
            let (AskError::Refused(error) | AskError::Outage(error)) = error;
            refusal(&error, Subject::Repository)
        })?;
        let text = |name: &str| {
            let value = passed.headers.get(name)?.to_str().ok()?;
            Some(value.to_owned())
        };
        Ok(Passed {
            content_type: text("content-type").unwrap_or_else(|| "application/json".to_owned()),
            link: text("link"),
            filters_applied: text("oci-filters-applied"),
            body: passed.body,
        })
    }
}

/// As whom and as what the origin is asked for a manifest.
fn manifest_context(repository: &Repository, resolved: &Resolved) -> Result<OriginContext, Refusal> {
    let accept = HeaderValue::from_str(&resolved.media_type)
        .map_err(|_| Refusal::ManifestInvalid { reason: "its media type is not text".into() })?;
    let Grant { identity, fallback, .. } = resolved.grant.clone();
    let kind = Kind::Manifest { accept };
    Ok(OriginContext { repository: repository.clone(), kind, identity, fallback })
}

fn unread(failure: &ReadFailure) -> Refusal {
    let reason = failure.to_string();
    match failure {
        ReadFailure::Corrupt(_) => Refusal::ManifestInvalid { reason },
        _ => Refusal::Unavailable { reason },
    }
}

impl Backend for Mirror {
    type Blob = FoundBlob;

    fn default_registry(&self) -> RegistryName {
        self.origins.default_registry().clone()
    }

    fn admit(&self, registry: &RegistryName) -> Result<RegistryName, Refusal> {
        self.origin(registry).map(|origin| origin.name().clone())
    }

    async fn manifest(
        &self,
        image: &ImageRef,
        accept: &Accept,
        caller: &Caller,
        head: bool,
    ) -> Result<Manifest, Refusal> {
        self.found_manifest(image, accept, caller, head).await
    }

    async fn blob(&self, blob: &BlobRef, caller: &Caller) -> Result<FoundBlob, Refusal> {
        self.found_blob(blob, caller).await
    }

    async fn pass(&self, pass: &Pass, caller: &Caller) -> Result<Passed, Refusal> {
        self.passed(pass, caller).await
    }
}

impl Blob for FoundBlob {
    fn size(&self) -> u64 {
        self.wanted.size
    }

    fn source(&self) -> Source {
        let local = self.blobs.is_local(&self.wanted.digest, self.wanted.size);
        if local { Source::Local } else { Source::Origin }
    }

    fn read(self, range: Range<u64>) -> impl Stream<Item = Result<Piece, ReadFailure>> + Send + 'static {
        reading(self.blobs, self.wanted, range)
    }
}
