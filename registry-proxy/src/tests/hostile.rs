//! Requests that no honest client sends get an error, never a panic, and never reach the backend.

use super::client::Mirror;
use super::shelf::{Shelf, digest_of};

#[tokio::test]
async fn addresses_that_try_to_escape() {
    let mirror = Mirror::start(Shelf::default()).await;
    let blob = digest_of(1);
    for path in [
        format!("/v2/../../etc/blobs/{blob}"),
        format!("/v2/%2e%2e/%2e%2e/etc/blobs/{blob}"),
        format!("/v2/a%00b/blobs/{blob}"),
        format!("/v2/a%0d%0ax-evil:1/blobs/{blob}"),
        format!("/v2/a%ff/blobs/{blob}"),
        format!("/v2/a%zz/blobs/{blob}"),
        format!("/v2/a%2/blobs/{blob}"),
        format!("/v2/a%/blobs/{blob}"),
        format!("/v2/a%252fb/blobs/{blob}"),
        format!("/v2/a%2f%2fb/blobs/{blob}"),
        format!("/v2/%2fa/blobs/{blob}"),
        format!("/v2/{}/blobs/{blob}", "a".repeat(300)),
        format!("/v2/app/blobs/{}", blob.to_string().replace(':', "%253a")),
        format!("/v2/app/blobs/{blob}?ns=registry.test&ns=docker.io"),
        format!("/v2/app/blobs/{blob}?ns=registry.test&ns=registry.test"),
        format!("/v2/app/blobs/{blob}?ns=registry.test&n%73=docker.io"),
        format!("/v2/app/blobs/{blob}?ns=registry.test%2fx"),
        format!("/v2/app/blobs/{blob}?ns=user@registry.test"),
        format!("/v2/app/blobs/{blob}?ns=%00"),
        format!("/v2/app/blobs/{blob}?ns=169.254.169.254"),
        format!("/v2/169.254.169.254/app/blobs/{blob}"),
        format!("/v2/10.0.0.1:80/app/blobs/{blob}"),
    ] {
        let reply = mirror.get(&path).await;
        assert!(matches!(reply.status.as_u16(), 400 | 403), "{path}: {reply:?}");
        assert!(!reply.error().0.is_empty());
    }
    assert!(mirror.shelf.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn ordinary_escapes_are_undone() {
    let mirror = Mirror::start(Shelf::default().with_blob(1, 9, None)).await;
    let digest = digest_of(1).to_string().replace(':', "%3A");
    let reply = mirror.get(&format!("/v2/library%2F%61pp/blobs/{digest}?ns=registry.test%3a5000")).await;
    assert_eq!(reply.status, 200);
    assert_eq!(mirror.shelf.last_asked(), format!("blob registry.test:5000 library/app {}", digest_of(1)));
}

#[tokio::test]
async fn long_addresses_are_refused() {
    let mirror = Mirror::start(Shelf::default()).await;
    for path in
        [format!("/v2/{}/tags/list", "a/".repeat(8000)), format!("/v2/a/tags/list?n={}", "1".repeat(9000))]
    {
        assert_eq!(mirror.get(&path).await.status, 414);
    }
}

#[tokio::test]
async fn too_many_or_too_long_headers_are_refused() {
    let mirror = Mirror::start(Shelf::default()).await;
    let many = "accept: a/b\r\n".repeat(200);
    let long = format!("accept: {}\r\n", "a".repeat(100_000));
    for headers in [many, long] {
        let answer = mirror.raw(format!("GET /v2/ HTTP/1.1\r\nhost: a\r\n{headers}\r\n").as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }
    assert_eq!(mirror.get("/v2/").await.status, 200);
}

#[tokio::test]
async fn fifty_accept_lines_are_fine() {
    let mirror = Mirror::start(Shelf::default().with_manifest(7, b"{}", None)).await;
    let lines = vec![("accept", "application/a"); 50];
    assert_eq!(mirror.ask("GET", "/v2/app/manifests/latest", &lines).await.status, 200);
}

#[tokio::test]
async fn what_is_not_http_is_closed() {
    let mirror = Mirror::start(Shelf::default()).await;
    for text in ["\0\0\0\0\r\n\r\n", "GET\r\n\r\n", "GET /v2/\0 HTTP/1.1\r\n\r\n", "\u{16}\u{3}\u{1}\r\n\r\n"]
    {
        let answer = mirror.raw(text.as_bytes()).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{text:?}: {answer}");
    }
}

#[tokio::test]
async fn a_request_cannot_hide_in_another_ones_body() {
    let mirror = Mirror::start(Shelf::default().with_manifest(7, b"{}", None)).await;
    let hidden = "GET /v2/hidden/manifests/latest HTTP/1.1\r\nhost: a\r\n\r\n";
    for headers in [
        format!("content-length: {}", hidden.len()),
        "content-length: 5\r\ntransfer-encoding: chunked".into(),
    ] {
        let text = format!("PUT /v2/app/manifests/latest HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n{hidden}");
        let mut stream = mirror.connect().await;
        tokio::io::AsyncWriteExt::write_all(&mut stream, text.as_bytes()).await.unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
        let mut answer = String::new();
        let _ = tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await;
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    assert!(mirror.shelf.asked.lock().unwrap().is_empty());
}
