//! One origin: what it can be asked for, wherever its bytes are.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest as _, Sha256, Sha512};
use shoal_proto::{Algorithm, Digest, Reference, RegistryName, Repository};

use crate::blob_stream::{self, BlobStream};
use crate::counters::{CounterSnapshot, Counters};
use crate::error::{Failure, OriginError};
use crate::identity::Identity;
use crate::layout_folder::LayoutFolder;
use crate::registry::{BlobRequest, Registry};
use crate::well_known;

/// One origin. All its reads are idempotent; they are repeated a few times where that may help.
pub struct Origin {
    name: RegistryName,
    backend: Backend,
    anonymous_only: bool,
    counters: Arc<Counters>,
}

pub(crate) enum Backend {
    Registry(Arc<Registry>),
    Folder(LayoutFolder),
}

/// What an origin tells about a manifest without sending it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    /// `None` when the registry sends no `Docker-Content-Digest`; then only a GET tells.
    pub digest: Option<Digest>,
    /// In bytes.
    pub size: Option<u64>,
    pub media_type: Option<String>,
}

/// A manifest that matches its digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestBody {
    pub bytes: Bytes,
    pub media_type: Option<String>,
    /// Computed from the bytes: with the algorithm of the reference, of the registry's answer, or SHA-256.
    pub digest: Digest,
}

/// How a registry keeps what is read by digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Blob,
    /// A manifest, with the media type to accept.
    Manifest {
        accept: HeaderValue,
    },
}

/// Lists that are passed on without a look into them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PassPath {
    Tags,
    Referrers(Digest),
}

/// A list as the registry sent it: `Content-Type`, `Link`, `OCI-Filters-Applied` and the body. A `Link`
/// is relative to the registry.
#[derive(Clone, Debug)]
pub struct Passed {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Origin {
    pub(crate) fn new(
        name: RegistryName,
        backend: Backend,
        anonymous_only: bool,
        counters: Arc<Counters>,
    ) -> Self {
        Self { name, backend, anonymous_only, counters }
    }

    pub fn name(&self) -> &RegistryName {
        &self.name
    }

    /// The full name of a repository: Docker Hub keeps `alpine` as `library/alpine`. Requests do this by
    /// themselves; caches need it so that both names are one.
    pub fn canonical_repository(&self, repository: &Repository) -> Repository {
        well_known::canonical_repository(&self.name, repository)
    }

    /// What a manifest's HEAD tells.
    pub async fn head_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: &[HeaderValue],
        who: &Identity,
    ) -> Result<ManifestHead, OriginError> {
        let head = match &self.backend {
            Backend::Registry(registry) => {
                registry.head_manifest(repository, reference, accept, self.acting(who)).await
            }
            Backend::Folder(folder) => folder.head_manifest(repository, reference).await,
        };
        head.map_err(|failure| self.error("HEAD manifest", repository, reference, failure))
    }

    /// A manifest of at most `max_bytes`, checked against its digest.
    pub async fn get_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: &[HeaderValue],
        max_bytes: u64,
        who: &Identity,
    ) -> Result<ManifestBody, OriginError> {
        let body = match &self.backend {
            Backend::Registry(registry) => {
                registry.get_manifest(repository, reference, accept, max_bytes, self.acting(who)).await
            }
            Backend::Folder(folder) => folder.get_manifest(repository, reference, max_bytes).await,
        };
        if let (Ok(body), Backend::Folder(_)) = (&body, &self.backend) {
            self.counters.count_received(body.bytes.len());
        }
        body.map_err(|failure| self.error("GET manifest", repository, reference, failure))
    }

    /// The size of a blob in bytes; also the proof that `who` may read it.
    pub async fn head_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        who: &Identity,
    ) -> Result<u64, OriginError> {
        let size = match &self.backend {
            Backend::Registry(registry) => registry.head_blob(repository, digest, self.acting(who)).await,
            Backend::Folder(folder) => folder.size(digest).await,
        };
        size.map_err(|failure| self.error("HEAD blob", repository, digest, failure))
    }

    /// A range of something that is `size` bytes long. An empty range asks nobody.
    pub async fn read_blob(
        &self,
        repository: &Repository,
        kind: Kind,
        digest: &Digest,
        size: u64,
        range: Range<u64>,
        who: &Identity,
    ) -> Result<BlobStream, OriginError> {
        let fail = |failure| self.error("GET blob", repository, digest, failure);
        if range.start > range.end || range.end > size {
            return Err(fail(Failure::WrongRange));
        }
        if range.is_empty() {
            return Ok(BlobStream::new(range, futures_util::stream::empty()));
        }
        let subject = self.subject("GET blob", repository, digest);
        let stream = match &self.backend {
            Backend::Registry(registry) => {
                let blob = BlobRequest { repository: repository.clone(), kind, digest: *digest, size };
                let who = self.acting(who).clone();
                blob_stream::open(registry.clone(), blob, range, who, subject).await
            }
            Backend::Folder(folder) => folder.read(digest, size, range, subject, self.counters.clone()).await,
        };
        stream.map_err(fail)
    }

    /// A list of a repository, as the origin has it. `query` is the client's; its `ns` is left out.
    pub async fn pass(
        &self,
        repository: &Repository,
        path: &PassPath,
        query: &str,
        who: &Identity,
    ) -> Result<Passed, OriginError> {
        let passed = match &self.backend {
            Backend::Registry(registry) => registry.pass(repository, path, query, self.acting(who)).await,
            Backend::Folder(folder) => folder.pass(repository, path).await,
        };
        passed.map_err(|failure| self.error("GET", repository, path, failure))
    }

    /// What was asked of and received from this origin so far.
    pub fn counters(&self) -> CounterSnapshot {
        self.counters.snapshot()
    }

    /// Whether this origin sees a difference between the two: not where it gets no credentials, and not between
    /// nobody and this node where no credentials are configured.
    pub fn tells_apart(&self, one: &Identity, other: &Identity) -> bool {
        let Backend::Registry(registry) = &self.backend else { return false };
        let seen = |who| match self.acting(who) {
            Identity::Node if !registry.has_credentials() => Identity::Anonymous.key(),
            who => who.key(),
        };
        seen(one) != seen(other)
    }

    fn acting<'a>(&self, who: &'a Identity) -> &'a Identity {
        if self.anonymous_only { &Identity::Anonymous } else { who }
    }

    fn subject(&self, operation: &str, repository: &Repository, what: &dyn fmt::Display) -> String {
        format!("{operation} {} {repository} {what}", self.name)
    }

    fn error(
        &self,
        operation: &str,
        repository: &Repository,
        what: &dyn fmt::Display,
        failure: Failure,
    ) -> OriginError {
        OriginError::new(self.subject(operation, repository, what), failure)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({})", self.name)
    }
}

/// The end of a list's path. It is made of parsed parts: a client's own path never reaches a registry.
impl fmt::Display for PassPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tags => f.write_str("tags/list"),
            Self::Referrers(digest) => write!(f, "referrers/{digest}"),
        }
    }
}

impl Passed {
    pub(crate) fn json(body: &serde_json::Value) -> Self {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        Self { status: StatusCode::OK, headers, body: Bytes::from(body.to_string()) }
    }
}

/// The digest of some bytes.
pub(crate) fn hash(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    match algorithm {
        Algorithm::Sha256 => Digest::sha256(Sha256::digest(bytes).into()),
        Algorithm::Sha512 => Digest::from_hash(algorithm, &Sha512::digest(bytes))
            .unwrap_or_else(|| Digest::sha256(Sha256::digest(bytes).into())),
    }
}
