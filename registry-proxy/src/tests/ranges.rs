//! Ranges of blobs, as clients resume with them.

use super::client::Mirror;
use super::shelf::{Shelf, content, digest_of};

async fn mirror() -> (Mirror, String) {
    let mirror = Mirror::start(Shelf::default().with_blob(1, 2500, None)).await;
    (mirror, format!("/v2/app/blobs/{}", digest_of(1)))
}

#[tokio::test]
async fn a_part_arrives_as_a_part() {
    let (mirror, path) = mirror().await;
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=500-1499", 500, 1500),
        ("bytes=999-1000", 999, 1001),
        ("bytes=500-", 500, 2500),
        ("bytes=-500", 2000, 2500),
        ("bytes=0-", 0, 2500),
        ("bytes=2499-9999", 2499, 2500),
        ("bytes=-9999", 0, 2500),
    ] {
        let reply = mirror.ask("GET", &path, &[("range", range)]).await;
        assert_eq!(reply.status, 206, "{range}");
        assert_eq!(reply.bytes(), &content(2500).slice(from..to), "{range}");
        assert_eq!(reply.header("content-range"), format!("bytes {from}-{}/2500", to - 1));
        assert_eq!(reply.header("content-length"), (to - from).to_string());
        assert_eq!(reply.header("docker-content-digest"), digest_of(1).to_string());
    }
}

#[tokio::test]
async fn past_the_end_is_refused_with_the_size() {
    let (mirror, path) = mirror().await;
    for range in ["bytes=2500-", "bytes=2500-2600", "bytes=-0"] {
        let reply = mirror.ask("GET", &path, &[("range", range)]).await;
        assert_eq!(reply.status, 416, "{range}");
        assert_eq!(reply.header("content-range"), "bytes */2500");
        assert_eq!(reply.error().0, "RANGE_INVALID");
    }
}

#[tokio::test]
async fn what_is_not_one_range_gets_the_whole() {
    let (mirror, path) = mirror().await;
    for range in ["bytes=0-1,5-6", "bytes=9-1", "bytes=x-y", "lines=0-1", "nonsense"] {
        let reply = mirror.ask("GET", &path, &[("range", range)]).await;
        assert_eq!(reply.status, 200, "{range}");
        assert_eq!(reply.bytes(), &content(2500), "{range}");
        assert_eq!(reply.header("content-range"), "");
    }
}

#[tokio::test]
async fn if_range_guards_the_part() {
    let (mirror, path) = mirror().await;
    let tag = format!("\"{}\"", digest_of(1));
    for (tag, status) in [(tag.as_str(), 206), ("\"other\"", 200), ("Sat, 01 Jan 2000 00:00:00 GMT", 200)] {
        let reply = mirror.ask("GET", &path, &[("range", "bytes=0-9"), ("if-range", tag)]).await;
        assert_eq!(reply.status, status, "{tag}");
    }
}

#[tokio::test]
async fn head_knows_no_ranges() {
    let (mirror, path) = mirror().await;
    let reply = mirror.ask("HEAD", &path, &[("range", "bytes=0-9")]).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-length")), (200, "2500"));
}
