//! A registry over HTTP, as in the OCI distribution specification.

use std::sync::Arc;

use http::header::{ACCEPT, CONTENT_TYPE, LINK, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use shoal_proto::{Algorithm, Digest, Reference, RegistryName, Repository};
use url::{Url, form_urlencoded};

use crate::challenge;
use crate::config::Settings;
use crate::content_range::content_range;
use crate::credentials::CredentialSource;
use crate::error::Failure;
use crate::http_client::{Answer, Ask, HttpClient};
use crate::identity::Identity;
use crate::origin::{Kind, ManifestBody, ManifestHead, PassPath, Passed, hash};
use crate::proof::{ProofKey, Proofs, Prover};
use crate::retry;
use crate::well_known;

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

// Tag lists of repositories with a hundred thousand tags have a few MiB.
const MAX_PASSED: u64 = 16 << 20;

pub(crate) struct Registry {
    name: RegistryName,
    /// Repositories are appended to it; its path ends in `/`.
    base: Url,
    http: HttpClient,
    proofs: Proofs,
    credentials: CredentialSource,
}

impl Registry {
    pub(crate) fn new(settings: &Settings, base: Url, http: HttpClient) -> Arc<Self> {
        Arc::new(Self {
            name: settings.name.clone(),
            proofs: Proofs::new(base.clone(), settings.realms.clone()),
            base,
            http,
            credentials: settings.credentials.clone(),
        })
    }

    /// Whether this node has credentials for it, or may have.
    pub(crate) fn has_credentials(&self) -> bool {
        !matches!(self.credentials, CredentialSource::None)
    }

    pub(crate) async fn head_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: &[HeaderValue],
        who: &Identity,
    ) -> Result<ManifestHead, Failure> {
        let mut ask = self.ask(repository, &format!("manifests/{reference}"));
        ask.method = Method::HEAD;
        add_accept(&mut ask.headers, accept);
        let answer = self.send(repository, &ask, who).await?;
        let digest = content_digest(answer.headers());
        if let (Reference::Digest(want), Some(got)) = (reference, digest)
            && got != *want
        {
            return Err(Failure::wrong_digest(*want, got));
        }
        // Some servers say 0 of every HEAD; nothing is no manifest.
        let size = answer.content_length().filter(|size| *size > 0);
        Ok(ManifestHead { digest, size, media_type: media_type(answer.headers()) })
    }

    pub(crate) async fn get_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        accept: &[HeaderValue],
        max_bytes: u64,
        who: &Identity,
    ) -> Result<ManifestBody, Failure> {
        let mut ask = self.ask(repository, &format!("manifests/{reference}"));
        add_accept(&mut ask.headers, accept);
        let answer = self.send(repository, &ask, who).await?;
        let told = content_digest(answer.headers());
        let media_type = media_type(answer.headers());
        let bytes = answer.body(max_bytes).await?;
        let want = match reference {
            Reference::Digest(digest) => Some(*digest),
            Reference::Tag(_) => told,
        };
        let got = hash(want.map_or(Algorithm::Sha256, |want| want.algorithm()), &bytes);
        match want {
            Some(want) if want != got => Err(Failure::wrong_digest(want, got)),
            _ => Ok(ManifestBody { bytes, media_type, digest: got }),
        }
    }

    /// The size of a blob in bytes.
    pub(crate) async fn head_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        who: &Identity,
    ) -> Result<u64, Failure> {
        let mut ask = self.ask(repository, &format!("blobs/{digest}"));
        ask.method = Method::HEAD;
        let told = match self.send(repository, &ask, who).await {
            Ok(answer) => answer.content_length().filter(|size| digest.fits_size(*size)),
            // Some storage signs redirects for GET alone, and some registries know no HEAD of a blob.
            Err(Failure::Forbidden | Failure::Status { .. }) => None,
            Err(failure) => return Err(failure),
        };
        match told {
            Some(size) => Ok(size),
            None => self.size_by_range(repository, digest, who).await,
        }
    }

    async fn size_by_range(
        &self,
        repository: &Repository,
        digest: &Digest,
        who: &Identity,
    ) -> Result<u64, Failure> {
        let mut ask = self.ask(repository, &format!("blobs/{digest}"));
        ask.headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
        let answer = self.send(repository, &ask, who).await?;
        let size = match answer.status() {
            StatusCode::PARTIAL_CONTENT => content_range(answer.headers()).and_then(|range| range.size),
            _ => answer.content_length(),
        };
        size.filter(|size| digest.fits_size(*size))
            .ok_or(Failure::Malformed("a blob without a length that its digest can have"))
    }

    /// Asks for `blob` from byte `start` up to, not including, `end`; for all of it without a `Range`.
    pub(crate) async fn get_range(
        &self,
        blob: &BlobRequest,
        start: u64,
        end: u64,
        who: &Identity,
    ) -> Result<Answer, Failure> {
        let digest = &blob.digest;
        let mut ask = match &blob.kind {
            Kind::Blob => self.ask(&blob.repository, &format!("blobs/{digest}")),
            Kind::Manifest { accept } => {
                let mut ask = self.ask(&blob.repository, &format!("manifests/{digest}"));
                ask.headers.insert(ACCEPT, accept.clone());
                ask
            }
        };
        if start > 0 || end < blob.size {
            let last = end.saturating_sub(1);
            let range = HeaderValue::from_str(&format!("bytes={start}-{last}"));
            ask.headers.insert(RANGE, range.map_err(|_| Failure::WrongRange)?);
        }
        match self.send(&blob.repository, &ask, who).await {
            Err(Failure::Status { status: 416 }) => Err(Failure::WrongRange),
            done => done,
        }
    }

    pub(crate) async fn pass(
        &self,
        repository: &Repository,
        path: &PassPath,
        query: &str,
        who: &Identity,
    ) -> Result<Passed, Failure> {
        let mut ask = self.ask(repository, &path.to_string());
        ask.url.set_query(without_ns(query).as_deref());
        let answer = self.send(repository, &ask, who).await?;
        let mut headers = HeaderMap::new();
        for name in [CONTENT_TYPE, LINK, OCI_FILTERS_APPLIED] {
            for value in answer.headers().get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
        Ok(Passed { status: answer.status(), headers, body: answer.body(MAX_PASSED).await? })
    }

    fn ask(&self, repository: &Repository, tail: &str) -> Ask {
        let mut url = self.base.clone();
        let repository = well_known::canonical_repository(&self.name, repository);
        url.set_path(&format!("{}{repository}/{tail}", self.base.path()));
        Ask::get(url)
    }

    /// Sends a request with the proof that it needs, again where that may help. An answer has a status of
    /// success.
    async fn send(&self, repository: &Repository, ask: &Ask, who: &Identity) -> Result<Answer, Failure> {
        let mut n = 1;
        loop {
            match self.send_with_proof(repository, ask, who).await {
                Err(failure) if n < retry::TRIES && retry::is_worthwhile(&failure) => {
                    tracing::debug!(registry = %self.name, url = %ask.url, %failure, n, "asking again");
                    retry::pause_before(n).await;
                    n += 1;
                }
                done => return done,
            }
        }
    }

    async fn send_with_proof(
        &self,
        repository: &Repository,
        ask: &Ask,
        who: &Identity,
    ) -> Result<Answer, Failure> {
        if let Identity::Caller(caller) = who
            && caller.basic().is_none()
        {
            return self.http.send(ask, Some(caller.header())).await?.check();
        }
        let key = ProofKey { repository: repository.clone(), identity: who.key() };
        let prover = Prover { http: &self.http, who, source: &self.credentials, registry: &self.name };
        let held = self.proofs.current(&key, &prover).await?;
        let refused = match self.http.send(ask, held.as_ref()).await?.check() {
            Err(Failure::Unauthorized { challenge: Some(text) }) => text,
            done => return done,
        };
        let better = match challenge::choose(&refused) {
            Some(challenge) => self.proofs.answer(&key, challenge, held.as_ref(), &prover).await,
            None => Ok(None),
        };
        match better {
            Ok(Some(proof)) => self.http.send(ask, Some(&proof)).await?.check(),
            // A client can answer the registry's challenge, not the token server's.
            Ok(None) | Err(Failure::Unauthorized { .. }) => {
                Err(Failure::Unauthorized { challenge: Some(refused) })
            }
            Err(failure) => Err(failure),
        }
    }
}

/// A blob to be read.
#[derive(Clone, Debug)]
pub(crate) struct BlobRequest {
    pub(crate) repository: Repository,
    pub(crate) kind: Kind,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

fn add_accept(headers: &mut HeaderMap, accept: &[HeaderValue]) {
    for value in accept {
        headers.append(ACCEPT, value.clone());
    }
}

fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(DOCKER_CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    // RFC 6838 limits both halves of a media type to 127 characters.
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?.split(';').next()?.trim();
    (!text.is_empty() && text.len() <= 255).then(|| text.to_owned())
}

/// `ns` is between a client and its mirror: Docker Hub answers 400 to it.
fn without_ns(query: &str) -> Option<String> {
    let mut kept = form_urlencoded::Serializer::new(String::new());
    kept.extend_pairs(form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name != "ns"));
    Some(kept.finish()).filter(|query| !query.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ns_is_left_out_of_queries() {
        assert_eq!(without_ns("ns=docker.io"), None);
        assert_eq!(without_ns("n=5&ns=docker.io&last=a%2Fb"), Some("n=5&last=a%2Fb".to_owned()));
        assert_eq!(without_ns("%6es=x&ns"), None);
    }
}
