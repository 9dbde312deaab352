//! `GET` and `HEAD` of `/v2/<name>/manifests/<reference>`.

use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use shoal_proto::Reference;

use crate::body::ReplyBody;
use crate::headers::{self, SHOAL_STALE};
use crate::refusal::Failure;
use crate::service::Asked;
use crate::{Accept, Backend, ImageRef, Manifest, Refusal};

pub(crate) async fn answer<B: Backend>(
    backend: &B,
    asked: &Asked<'_>,
    image: &ImageRef,
) -> Result<Response<ReplyBody>, Failure> {
    let accept = Accept::from_headers(asked.headers);
    let manifest = backend.manifest(image, &accept, asked.caller, asked.head).await?;
    check(image, &manifest, asked.head)?;
    asked.record(&manifest.digest, manifest.source);

    let mut response = Response::new(ReplyBody::empty());
    let to = response.headers_mut();
    headers::describe(to, &image.registry, &manifest.digest, manifest.source);
    if let Some(age) = manifest.stale {
        to.insert(SHOAL_STALE, HeaderValue::from(age.as_secs()));
    }
    if headers::client_has(asked.headers, &headers::etag(&manifest.digest)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    headers::set(to, CONTENT_TYPE, &manifest.media_type);
    to.insert(CONTENT_LENGTH, HeaderValue::from(manifest.size));
    if let (false, Some(bytes)) = (asked.head, manifest.bytes) {
        *response.body_mut() = ReplyBody::manifest(bytes, manifest.source);
    }
    Ok(response)
}

/// What a client would trip over is refused here, so that it turns to its next host instead.
fn check(image: &ImageRef, manifest: &Manifest, head: bool) -> Result<(), Refusal> {
    let failed = |reason: String| Err(Refusal::UpstreamFailed { reason });
    if let Reference::Digest(digest) = image.reference
        && digest != manifest.digest
    {
        return failed(format!("asked for {digest}, got {}", manifest.digest));
    }
    let length = manifest.bytes.as_ref().map(|bytes| bytes.len() as u64);
    if length.is_none() && head || length == Some(manifest.size) {
        return Ok(());
    }
    failed(format!("a manifest of {} bytes came with {}", manifest.size, length.unwrap_or_default()))
}
