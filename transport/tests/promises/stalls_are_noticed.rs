use std::sync::Arc;
use std::time::Duration;

use shoal_transport::{Bulk, FetchError, Served};

use crate::support::{Node, Serve, config, nothing, tls};

#[tokio::test]
async fn a_neighbour_that_sends_nothing_more() {
    let silent = Serve(|_, _| Served::Sending { len: 100, body: Box::pin(futures_util::stream::pending()) });
    let mut server = Node::new(1, Arc::new(silent));
    let stall = Duration::from_millis(100);
    let mut client = Node::with(shoal_transport::QuicConfig { stall, ..config() }, &tls(2), nothing());
    client.link(&mut server).await;
    let fetched = client.fetch(server.id, 100).await;
    assert_eq!(fetched, Err(FetchError::Stalled { node: server.id, waited: stall }));
    // Being slow is no lie.
    assert_eq!(client.endpoint.links().len(), 1);
}
