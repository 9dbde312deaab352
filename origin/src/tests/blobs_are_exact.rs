//! A read of a range gives exactly its bytes or an error, whatever the registry does.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::*;
use crate::{BlobStream, Failure, Kind};

const SIZE: usize = 10_000;

/// How the registry misbehaves in its n-th answer, from 0.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    /// Cuts the connection after so many bytes.
    CutAfter(usize),
    IgnoresRange,
    /// One byte more than it should be, without a length.
    Long,
    /// Ends early without a length, as if that were all.
    Short,
    OtherRange,
    OtherSize,
    OtherLength,
}

async fn registry(faults: &'static [Fault]) -> FakeRegistry {
    let count = Arc::new(AtomicUsize::new(0));
    FakeRegistry::start(move |seen| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        let fault = faults.get(n).or(faults.last()).copied().unwrap_or(Fault::None);
        respond(seen.header("range"), fault)
    })
    .await
}

fn respond(range: &str, fault: Fault) -> Response {
    let asked = range.strip_prefix("bytes=").and_then(|text| text.split_once('-'));
    let (start, end) =
        asked.map_or((0, SIZE), |(a, b)| (a.parse().unwrap(), b.parse::<usize>().unwrap() + 1));
    let whole = asked.is_none() || matches!(fault, Fault::IgnoresRange);
    let (start, end) = if whole { (0, SIZE) } else { (start, end) };
    let mut body = content(SIZE + 1).slice(start..end);
    let told = match fault {
        Fault::OtherRange => format!("bytes {}-{}/{SIZE}", start + 1, end),
        Fault::OtherSize => format!("bytes {start}-{}/{}", end - 1, SIZE + 1),
        _ => format!("bytes {start}-{}/{SIZE}", end - 1),
    };
    let mut length = Some(body.len());
    let mut pieces: Vec<Result<Bytes, std::io::Error>> = Vec::new();
    match fault {
        Fault::CutAfter(n) => {
            pieces.push(Ok(body.slice(..n.min(body.len()))));
            pieces.push(Err(std::io::Error::other("cut")));
        }
        Fault::Long => {
            body = content(SIZE + 1).slice(start..=end);
            length = None;
        }
        Fault::Short => {
            body = body.slice(..body.len() / 2);
            length = None;
        }
        Fault::OtherLength => {
            body = body.slice(..body.len() - 1);
            length = Some(body.len());
        }
        _ => {}
    }
    if pieces.is_empty() {
        pieces.push(Ok(body));
    }
    // A pause between the pieces, so that what comes before a cut is sent.
    let pieces = stream::iter(pieces).then(async |piece| {
        tokio::task::yield_now().await;
        piece
    });
    let mut response = answer(if whole { 200 } else { 206 }, &[], Body::from_stream(pieces));
    let headers = response.headers_mut();
    if !whole {
        headers.insert("content-range", told.parse().unwrap());
    }
    headers.extend(length.map(|length| (http::header::CONTENT_LENGTH, HeaderValue::from(length))));
    response
}

async fn open(registry: &FakeRegistry, range: Range<u64>) -> Result<BlobStream, Failure> {
    let digest = digest_of(&content(SIZE));
    let size = SIZE as u64;
    let origin = registry.origin("");
    let stream =
        origin.read_blob(&repository(), Kind::Blob, &digest, size, range, &Identity::Anonymous).await;
    stream.map_err(|error| error.failure().clone())
}

async fn read(registry: &FakeRegistry, range: Range<u64>) -> Result<Vec<u8>, Failure> {
    let stream = open(registry, range).await?;
    let pieces: Result<Vec<Bytes>, _> = stream.try_collect().await;
    pieces.map(|pieces| pieces.concat()).map_err(|error| error.failure().clone())
}

#[tokio::test]
async fn ranges_come_as_they_are() {
    let registry = registry(&[Fault::None]).await;
    for range in [0..10_000u64, 0..1, 9_999..10_000, 2_000..3_000, 5_000..10_000] {
        let want = &content(SIZE)[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        assert_eq!(read(&registry, range).await.unwrap(), want);
    }
    // The whole is asked for without a range.
    let seen = registry.seen();
    assert_eq!((seen[0].header("range"), seen[3].header("range")), ("", "bytes=2000-2999"));
}

#[tokio::test]
async fn an_empty_range_asks_nobody_and_an_impossible_one_is_refused() {
    let registry = registry(&[Fault::None]).await;
    assert_eq!(read(&registry, 5..5).await, Ok(Vec::new()));
    assert_eq!(read(&registry, 0..10_001).await, Err(Failure::WrongRange));
    assert!(registry.seen().is_empty());
}

#[tokio::test]
async fn a_cut_is_mended_from_where_it_was() {
    let registry = registry(&[Fault::CutAfter(300), Fault::CutAfter(200), Fault::None]).await;
    assert_eq!(read(&registry, 1_000..2_000).await.unwrap(), &content(SIZE)[1_000..2_000]);
    let ranges: Vec<String> = registry.seen().iter().map(|seen| seen.header("range").to_owned()).collect();
    assert_eq!(ranges, ["bytes=1000-1999", "bytes=1300-1999", "bytes=1500-1999"]);
}

#[tokio::test]
async fn cuts_without_end_are_an_error() {
    let registry = registry(&[Fault::CutAfter(1)]).await;
    assert!(read(&registry, 1_000..2_000).await.is_err());
    assert_eq!(registry.seen().len(), 6);
}

#[tokio::test]
async fn a_registry_without_ranges_gives_the_whole_and_says_so() {
    let registry = registry(&[Fault::IgnoresRange]).await;
    let stream = open(&registry, 1_000..2_000).await.unwrap();
    assert_eq!((stream.ignores_range(), stream.start(), stream.end()), (true, 0, 10_000));
    let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert_eq!(pieces.concat(), content(SIZE));
    assert!(!open(&registry, 0..10_000).await.unwrap().ignores_range());
}

#[tokio::test]
async fn a_cut_of_a_registry_without_ranges_is_mended_too() {
    let registry = registry(&[Fault::CutAfter(4_000), Fault::IgnoresRange]).await;
    assert_eq!(read(&registry, 0..10_000).await.unwrap(), content(SIZE));
    // Also when only a part was wanted, and the second answer is the whole.
    let registry = self::registry(&[Fault::CutAfter(10), Fault::IgnoresRange]).await;
    assert_eq!(read(&registry, 1_000..2_000).await.unwrap(), &content(SIZE)[1_000..2_000]);
}

#[tokio::test]
async fn a_body_that_is_too_long_is_an_error() {
    for range in [0..10_000, 1_000..2_000] {
        let registry = registry(&[Fault::Long]).await;
        let failure = read(&registry, range.clone()).await;
        assert!(matches!(failure, Err(Failure::WrongLength { .. })), "{range:?} {failure:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_short_is_read_on() {
    let registry = registry(&[Fault::Short, Fault::None]).await;
    assert_eq!(read(&registry, 1_000..2_000).await.unwrap(), &content(SIZE)[1_000..2_000]);
    assert_eq!(registry.seen()[1].header("range"), "bytes=1500-1999");
    let registry = self::registry(&[Fault::Short]).await;
    assert!(matches!(read(&registry, 1_000..2_000).await, Err(Failure::Cut { .. })));
}

#[tokio::test]
async fn answers_about_another_range_or_size_are_refused() {
    for (fault, want) in [
        (&[Fault::OtherRange], Failure::WrongRange),
        (&[Fault::OtherSize], Failure::WrongLength { want: 10_000, got: 10_001 }),
        (&[Fault::OtherLength], Failure::WrongLength { want: 1_000, got: 999 }),
    ] {
        assert_eq!(read(&registry(fault).await, 1_000..2_000).await, Err(want), "{fault:?}");
    }
}

#[tokio::test]
async fn a_manifest_can_be_read_as_a_blob() {
    let registry = FakeRegistry::start(|_| answer(200, &[], "{}")).await;
    let digest = digest_of(b"{}");
    let kind = Kind::Manifest { accept: HeaderValue::from_static("application/x") };
    let origin = registry.origin("");
    let stream = origin.read_blob(&repository(), kind, &digest, 2, 0..2, &Identity::Anonymous).await.unwrap();
    assert_eq!(stream.try_collect::<Vec<Bytes>>().await.unwrap().concat(), b"{}");
    assert_eq!(registry.seen()[0].path, format!("/v2/team/app/manifests/{digest}"));
    assert_eq!(registry.seen()[0].header("accept"), "application/x");
    assert_eq!(origin.counters(), crate::CounterSnapshot { requests: 1, received_bytes: 2 });
}

#[tokio::test]
async fn the_size_is_found_where_head_is_refused() {
    let registry = FakeRegistry::start(|seen| match seen.method {
        Method::HEAD => answer(405, &[], ""),
        _ => respond(seen.header("range"), Fault::None),
    })
    .await;
    let size = registry.origin("").head_blob(&repository(), &digest_of(b"x"), &Identity::Anonymous).await;
    assert_eq!(size.unwrap(), 10_000);
}

#[tokio::test]
async fn a_body_that_stops_is_given_up() {
    // Sends a few bytes and then nothing, with the connection open.
    let registry = FakeRegistry::start(|_| {
        let first = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"abc"))]);
        answer(200, &[("content-length", "10000")], Body::from_stream(first.chain(stream::pending())))
    })
    .await;
    let config = format!(
        "system_proxy = false\nread_timeout = '50ms'\n[registries.'r.test']\nurl = 'http://{}'",
        registry.addr
    );
    let origins = Origins::new(toml::from_str(&config).unwrap()).unwrap();
    let origin = origins.admit(&"r.test".parse().unwrap()).unwrap();
    let stream = origin
        .read_blob(&repository(), Kind::Blob, &digest_of(b""), 10_000, 0..10_000, &Identity::Anonymous)
        .await
        .unwrap();
    let failure = stream.try_collect::<Vec<Bytes>>().await.unwrap_err();
    assert!(failure.is_outage(), "{failure}");
}
