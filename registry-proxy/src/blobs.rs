//! `GET` and `HEAD` of `/v2/<name>/blobs/<digest>`.

use std::ops::Range;
use std::time::Duration;

use futures_util::StreamExt;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::body::{Pieces, ReplyBody};
use crate::headers;
use crate::range::Wanted;
use crate::refusal::{Failure, RequestError};
use crate::service::Asked;
use crate::{Backend, Blob, BlobRef, Piece, Refusal};

/// How long headers wait for the first piece. With it in hand they can say where it came from, and a failure
/// can still be an error that the client understands. Clients wait 30 s for headers; the backend took some of
/// that to find the blob, and may hold a short body for 10 s until its digest matched.
const FIRST_PIECE_WAIT: Duration = Duration::from_secs(12);

pub(crate) async fn answer<B: Backend>(
    backend: &B,
    asked: &Asked<'_>,
    name: &BlobRef,
) -> Result<Response<ReplyBody>, Failure> {
    let blob = backend.blob(name, asked.caller).await?;
    let (size, mut source) = (blob.size(), blob.source());
    let etag = headers::etag(&name.digest);
    let mut response = Response::new(ReplyBody::empty());
    response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));

    if headers::client_has(asked.headers, &etag) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else if asked.head {
        // RFC 9110, 14.2: a range means nothing to HEAD.
        describe_content(response.headers_mut(), size);
    } else {
        let range = match Wanted::from_headers(asked.headers, size, &etag) {
            Wanted::Whole => 0..size,
            Wanted::Part(range) => {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let content_range = format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1));
                headers::set(response.headers_mut(), CONTENT_RANGE, &content_range);
                range
            }
            Wanted::PastEnd => return Err(RequestError::RangePastEnd { size }.into()),
        };
        let length = range.end - range.start;
        describe_content(response.headers_mut(), length);
        let (first, rest) = begin(blob, range).await?;
        source = first.as_ref().map_or(source, |piece| piece.source);
        *response.body_mut() = ReplyBody::blob(first, rest, length);
    }
    headers::describe(response.headers_mut(), &name.registry, &name.digest, source);
    asked.record(&name.digest, source);
    Ok(response)
}

fn describe_content(headers: &mut HeaderMap, length: u64) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
}

async fn begin(blob: impl Blob, range: Range<u64>) -> Result<(Option<Piece>, Pieces), Refusal> {
    if range.is_empty() {
        return Ok((None, Box::pin(futures_util::stream::empty())));
    }
    let mut pieces: Pieces = Box::pin(blob.read(range));
    match tokio::time::timeout(FIRST_PIECE_WAIT, pieces.next()).await {
        Ok(Some(Ok(piece))) => Ok((Some(piece), pieces)),
        Ok(Some(Err(failure))) => Err(failure.into()),
        Ok(None) => Err(Refusal::Unavailable { reason: "the blob's bytes ended before the first".into() }),
        Err(_) => Ok((None, pieces)),
    }
}
