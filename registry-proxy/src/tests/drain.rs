//! Stopping lets responses in flight finish, for a time.

use std::time::Duration;

use http_body_util::BodyExt;
use tokio::net::TcpStream;

use super::client::{Mirror, http2, request, request2, send_http1};
use super::shelf::{PIECE, Shelf, Twist, content, digest_of};
use crate::ProxyConfig;
use crate::connection::Patience;

async fn mirror(drain: Duration) -> (Mirror, String) {
    let shelf = Shelf::default().with_blob(1, 3 * PIECE, Some(Twist::Wait(PIECE)));
    let config = ProxyConfig { drain, ..ProxyConfig::default() };
    let mirror = Mirror::start_with(shelf, config, Patience::default()).await;
    (mirror, format!("/v2/app/blobs/{}", digest_of(1)))
}

#[tokio::test]
async fn a_body_in_flight_is_finished_and_no_connection_accepted() {
    let (mirror, path) = mirror(Duration::from_secs(600)).await;
    let mut sender = http2(mirror.connect().await).await;
    let first = send_http1(mirror.connect().await, request("GET", &path, &[])).await;
    let second = sender.send_request(request2(&path)).await.unwrap();
    // Open and idle: it must not hold the end up.
    let idle = mirror.connect().await;
    let Mirror { address, shelf, stop, served, .. } = mirror;
    stop.send(()).unwrap();
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    for response in [first, second] {
        shelf.events.go.notify_one();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), content(3 * PIECE));
    }
    served.await.unwrap();
    drop(idle);
}

#[tokio::test]
async fn what_outlasts_the_drain_time_is_cut() {
    let (mirror, path) = mirror(Duration::from_millis(1)).await;
    let response = send_http1(mirror.connect().await, request("GET", &path, &[])).await;
    mirror.stop.send(()).unwrap();
    mirror.served.await.unwrap();
    assert!(response.into_body().collect().await.is_err());
    mirror.shelf.events.dropped.notified().await;
    assert_eq!(mirror.metrics.snapshot().connections, 0);
}
