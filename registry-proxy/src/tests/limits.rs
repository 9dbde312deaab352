//! Clients that are many, slow or silent.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{Mirror, Reply, http2, request2};
use super::shelf::{PIECE, Shelf, Twist, content, digest_of};
use crate::ProxyConfig;
use crate::connection::Patience;

fn at_most(connections: usize) -> ProxyConfig {
    ProxyConfig { max_connections: NonZeroUsize::new(connections).unwrap(), ..ProxyConfig::default() }
}

fn impatient() -> Patience {
    let short = Duration::from_millis(20);
    Patience { headers: short, idle: short, ping: Duration::from_secs(20) }
}

#[tokio::test]
async fn a_thousand_bodies_at_once() {
    const SIZE: usize = 20 * PIECE;
    let mirror = Mirror::start(Shelf::default().with_blob(1, SIZE, None)).await;
    let path = format!("/v2/app/blobs/{}", digest_of(1));
    let connections = join_all((0..10).map(|_| async { http2(mirror.connect().await).await })).await;
    let replies = connections.iter().flat_map(|sender| {
        (0..100).map(|_| {
            let mut sender = sender.clone();
            let request = request2(&path);
            async move { Reply::read(sender.send_request(request).await.unwrap()).await }
        })
    });
    for reply in join_all(replies).await {
        assert_eq!(reply.bytes(), &content(SIZE));
    }
    let after = mirror.metrics.snapshot();
    assert_eq!(after.sent_bytes[0].1, 1000 * SIZE as u64);
    assert_eq!(after.cut_bodies, 0);
}

#[tokio::test]
async fn more_connections_than_allowed_take_turns() {
    let shelf = Shelf::default().with_blob(1, 3 * PIECE, None);
    let mirror = Mirror::start_with(shelf, at_most(2), Patience::default()).await;
    let path = format!("/v2/app/blobs/{}", digest_of(1));
    for reply in join_all((0..30).map(|_| mirror.get(&path))).await {
        assert_eq!(reply.bytes(), &content(3 * PIECE));
    }
    let most = mirror.shelf.events.most_reading.load(Ordering::SeqCst);
    assert!((1..=2).contains(&most), "{most}");
}

#[tokio::test]
async fn more_requests_than_allowed_are_told_to_wait() {
    let shelf = Shelf::default().with_blob(1, 3 * PIECE, Some(Twist::Wait(PIECE)));
    let mirror = Mirror::start_with(shelf, at_most(1), Patience::default()).await;
    let mut sender = http2(mirror.connect().await).await;
    let held = sender.send_request(request2(&format!("/v2/app/blobs/{}", digest_of(1)))).await.unwrap();
    let reply = Reply::read(sender.send_request(request2("/v2/")).await.unwrap()).await;
    assert_eq!(reply.status, 503);
    assert_eq!(reply.header("retry-after"), "5");
    drop(held);
    mirror.shelf.events.dropped.notified().await;
}

#[tokio::test]
async fn silent_connections_are_closed() {
    let mirror = Mirror::start_with(Shelf::default(), ProxyConfig::default(), impatient()).await;
    for begun in ["", "P", "PRI * HTTP/2.0", "GET /v2/ HTT", "GET /v2/ HTTP/1.1\r\nhost: a\r\nx-slow:"] {
        // Returns only when the mirror closes.
        let answer = mirror.raw(begun.as_bytes()).await;
        assert!(!answer.contains("200 OK"), "{begun:?}: {answer}");
    }
    assert_eq!(mirror.metrics.snapshot().requests, []);
}

#[tokio::test]
async fn idle_connections_are_closed_after_their_answers() {
    let mirror = Mirror::start_with(Shelf::default(), ProxyConfig::default(), impatient()).await;
    let answer = mirror.raw(b"GET /v2/ HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"));

    let mut sender = http2(mirror.connect().await).await;
    assert_eq!(sender.send_request(request2("/v2/")).await.unwrap().status(), 200);
    while sender.ready().await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_slow_body_is_not_idle() {
    let shelf = Shelf::default().with_blob(1, 3 * PIECE, Some(Twist::Wait(PIECE)));
    let mirror = Mirror::start_with(shelf, ProxyConfig::default(), impatient()).await;
    let mut stream = mirror.connect().await;
    let request = format!("GET /v2/app/blobs/{} HTTP/1.1\r\nhost: a\r\n\r\n", digest_of(1));
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 100]).await.unwrap();
    // Silent connections that come later are closed meanwhile, several patiences long.
    for _ in 0..5 {
        mirror.raw(b"").await;
    }
    mirror.shelf.events.go.notify_one();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.ends_with(&content(3 * PIECE)));
}
