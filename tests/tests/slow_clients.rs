//! Clients that ask and do not read: the node and its other clients go on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use shoal_tests::{Cluster, FaultyRegistry, ImageBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const NAME: &str = "registry.test";
const REPOSITORY: &str = "library/app";
/// More than there are threads for what blocks.
const CLIENTS: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn stop_nobody_else() {
    let registry = FaultyRegistry::start().await;
    // More than the sockets of loopback hold.
    let image = ImageBuilder::new(1).layer(24 << 20).build();
    let another = ImageBuilder::new(2).layer(3 << 20).layer(500).build();
    registry.serve(&image, REPOSITORY, "v1");
    registry.serve(&another, REPOSITORY, "v2");
    let cluster = Cluster::builder().nodes(2).registry(NAME, &registry.url()).start().await;
    let node = cluster.node(0);
    node.puller(NAME).pull(REPOSITORY, "v1").await.unwrap();

    let layer = image.here().layers[0].digest;
    let mut unread = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = TcpStream::connect(node.mirror()).await.unwrap();
        let request = format!(
            "GET /v2/{REPOSITORY}/blobs/{layer}?ns={NAME} HTTP/1.1\r\nhost: {}\r\n\r\n",
            node.mirror()
        );
        client.write_all(request.as_bytes()).await.unwrap();
        // It is being answered.
        let mut status = [0; 12];
        client.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        unread.push(client);
    }
    node.status().await;
    let read = node.puller(NAME).blob(REPOSITORY, &layer).await.unwrap();
    assert_eq!(read, image.here().layers[0].bytes.len() as u64, "the same layer is read");
    let pulled = node.puller(NAME).pull(REPOSITORY, "v2").await.unwrap();
    assert_eq!(pulled.bytes, another.total_bytes(), "another image is pulled");
    let pulled = cluster.node(1).puller(NAME).pull(REPOSITORY, "v1").await.unwrap();
    assert_eq!(pulled.bytes, image.total_bytes(), "a peer is served");
}
