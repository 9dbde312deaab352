use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::Either;
use shoal_transport::{Bulk, Served};
use tokio::sync::mpsc;

use crate::support::{MIB, Node, Serve, nothing, request, soon};

/// Sent when it is dropped.
struct Told(mpsc::UnboundedSender<&'static str>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.send("dropped").unwrap();
    }
}

/// Starts a fetch from a server whose body sends one part and then waits for ever, drops it when the server
/// was asked, and waits until the server's body is dropped.
async fn cancel(first_part: usize) {
    let (told, mut hears) = mpsc::unbounded_channel();
    let serve = Serve(move |_, _| {
        let guard = Told(told.clone());
        told.send("asked").unwrap();
        let first = futures_util::stream::iter([Ok(Bytes::from(vec![0; first_part]))]);
        let rest = futures_util::stream::pending().map(move |never: Bytes| {
            let _held = &guard;
            Ok(never)
        });
        Served::Sending { len: MIB as u32, body: Box::pin(first.chain(rest)) }
    });
    let mut server = Node::new(1, Arc::new(serve));
    let mut client = Node::new(2, nothing());
    client.link(&mut server).await;
    let fetch = client.endpoint.fetch(server.id, request(0), MIB as u32);
    let asked = Box::pin(hears.recv());
    match soon("a request", futures_util::future::select(fetch, asked)).await {
        Either::Right((asked, fetch)) => {
            assert_eq!(asked, Some("asked"));
            drop(fetch);
        }
        Either::Left((fetched, _)) => panic!("{fetched:?}"),
    }
    assert_eq!(soon("the end of the body", hears.recv()).await, Some("dropped"));
    // The link goes on.
    client.endpoint.send(server.id, &crate::support::message(1)).unwrap();
    server.event().await;
}

#[tokio::test]
async fn while_it_waits_for_bytes_from_its_disk() {
    cancel(1000).await;
}

#[tokio::test]
async fn while_it_has_sent_nothing() {
    cancel(0).await;
}
