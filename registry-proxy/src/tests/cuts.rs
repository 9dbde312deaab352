//! A body is whole or visibly broken: never a clean short end, never a wrong byte, never one too many.

use http_body_util::BodyExt;

use super::client::{Mirror, http2, request, request2, send_http1};
use super::shelf::{PIECE, Shelf, Twist, content, digest_of};

const SIZE: usize = 5 * PIECE;

fn twists() -> [(Twist, usize); 4] {
    [
        (Twist::Fail(2 * PIECE), 2 * PIECE),
        (Twist::End(2 * PIECE), 2 * PIECE),
        (Twist::End(SIZE - 1), SIZE - 1),
        (Twist::TooMuch, SIZE - 1),
    ]
}

async fn mirror(twist: Twist) -> (Mirror, String) {
    let mirror = Mirror::start(Shelf::default().with_blob(1, SIZE, Some(twist))).await;
    (mirror, format!("/v2/app/blobs/{}", digest_of(1)))
}

/// What arrives before the end, and whether the end is an error.
async fn drain(mut body: hyper::body::Incoming) -> (Vec<u8>, bool) {
    let mut arrived = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => arrived.extend_from_slice(frame.data_ref().unwrap()),
            Err(_) => return (arrived, true),
        }
    }
    (arrived, false)
}

#[tokio::test]
async fn http1_clients_see_an_unexpected_end() {
    for (twist, good) in twists() {
        let (mirror, path) = mirror(twist).await;
        let response = send_http1(mirror.connect().await, request("GET", &path, &[])).await;
        assert_eq!(response.status(), 200);
        let (arrived, broken) = drain(response.into_body()).await;
        assert!(broken, "{twist:?}");
        assert_eq!(arrived, content(good), "{twist:?}");
        assert_eq!(mirror.metrics.snapshot().cut_bodies, 1);
    }
}

#[tokio::test]
async fn the_http1_connection_closes_without_another_byte() {
    for (twist, good) in twists() {
        let (mirror, path) = mirror(twist).await;
        // Two requests: the second must not be answered into the first one's body.
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        let answer = mirror.raw(request.repeat(2).as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.to_lowercase().contains(&format!("content-length: {SIZE}")), "{head}");
        // The content is not all ASCII, so that its text is compared as text.
        let whole = String::from_utf8_lossy(&content(SIZE)).into_owned();
        assert!(body.chars().count() <= good && !body.contains("HTTP/1.1"), "{twist:?}");
        assert!(whole.starts_with(body.trim_end_matches('\u{fffd}')), "{twist:?}");
    }
}

#[tokio::test]
async fn http2_clients_see_a_reset() {
    for (twist, good) in twists() {
        let (mirror, path) = mirror(twist).await;
        let mut sender = http2(mirror.connect().await).await;
        let response = sender.send_request(request2(&path)).await.unwrap();
        let (arrived, broken) = drain(response.into_body()).await;
        assert!(broken, "{twist:?}");
        assert_eq!(arrived, content(good), "{twist:?}");
        // Only that stream: the connection goes on.
        let again = sender.send_request(request2("/v2/")).await.unwrap();
        assert_eq!(again.status(), 200);
    }
}

#[tokio::test]
async fn a_failure_before_the_first_byte_is_an_error_that_clients_understand() {
    for twist in [Twist::Fail(0), Twist::End(0)] {
        let (mirror, path) = mirror(twist).await;
        let reply = mirror.get(&path).await;
        assert_eq!(reply.status, 503, "{twist:?}");
        assert_eq!(reply.error().0, "UNAVAILABLE");
        assert_eq!(reply.header("content-range"), "");
    }
}

#[tokio::test]
async fn the_stream_is_dropped_when_an_http1_client_leaves() {
    let (mirror, path) = mirror(Twist::Wait(PIECE)).await;
    let stream = mirror.connect().await;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut response = sender.send_request(request("GET", &path, &[])).await.unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    connection.abort();
    mirror.shelf.events.dropped.notified().await;
}

#[tokio::test]
async fn the_stream_is_dropped_when_an_http2_client_leaves() {
    let (mirror, path) = mirror(Twist::Wait(PIECE)).await;
    let mut sender = http2(mirror.connect().await).await;
    let mut response = sender.send_request(request2(&path)).await.unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    mirror.shelf.events.dropped.notified().await;
}

#[tokio::test]
async fn the_stream_is_dropped_when_a_client_leaves_before_the_first_byte() {
    let (mirror, path) = mirror(Twist::Wait(0)).await;
    let mut stream = mirror.connect().await;
    let text = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut stream, text.as_bytes()).await.unwrap();
    while mirror.metrics.snapshot().in_flight == 0 {
        tokio::task::yield_now().await;
    }
    drop(stream);
    mirror.shelf.events.dropped.notified().await;
}
