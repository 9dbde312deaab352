use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use shoal_transport::{Bulk, FetchedChunk, LinkEvent, Served};
use tokio::sync::watch;

use crate::support::{Node, Serve, nothing, request, soon};

#[tokio::test]
async fn and_answers_busy_to_new_ones() {
    let (go, going) = watch::channel(false);
    let (asked, mut asks) = tokio::sync::mpsc::unbounded_channel();
    let serve = Serve(move |_, _| {
        asked.send(()).unwrap();
        let mut going = going.clone();
        let part = async move {
            going.wait_for(|go| *go).await.unwrap();
            Ok(Bytes::from_static(b"late"))
        };
        Served::Sending { len: 4, body: part.into_stream().boxed() }
    });
    let mut server = Node::new(1, Arc::new(serve));
    let mut client = Node::new(2, nothing());
    client.link(&mut server).await;

    let fetch = tokio::spawn(client.endpoint.fetch(server.id, request(0), 4));
    soon("a request", asks.recv()).await.unwrap();
    let mut closing = server.endpoint.close(Duration::from_secs(20));
    assert_eq!((&mut closing).now_or_never(), None);
    assert_eq!(client.fetch(server.id, 4).await, Ok(FetchedChunk::Busy));
    go.send_replace(true);
    assert_eq!(soon("the chunk", fetch).await.unwrap(), Ok(FetchedChunk::Bytes("late".into())));
    soon("the end", closing).await;
    assert_eq!(client.event().await, LinkEvent::Down(server.id));
    assert_eq!(server.event().await, LinkEvent::Down(client.id));
}

#[tokio::test]
async fn but_not_longer_than_its_deadline() {
    let (asked, mut asks) = tokio::sync::mpsc::unbounded_channel();
    let serve = Serve(move |_, _| {
        asked.send(()).unwrap();
        Served::Sending { len: 4, body: futures_util::stream::pending().boxed() }
    });
    let mut server = Node::new(1, Arc::new(serve));
    let mut client = Node::new(2, nothing());
    client.link(&mut server).await;
    let fetch = tokio::spawn(client.endpoint.fetch(server.id, request(0), 4));
    soon("a request", asks.recv()).await.unwrap();
    soon("the end", server.endpoint.close(Duration::from_millis(50))).await;
    assert!(soon("the fetch's end", fetch).await.unwrap().is_err());
}
