use std::sync::Arc;

use bytes::Bytes;
use shoal_proto::NodeId;
use shoal_proto::message::ChunkRequest;
use shoal_transport::{Bulk, FetchError, FetchedChunk, Served};

use crate::support::{MIB, Node, Serve, config, nothing, request, sending, soon, tls};

fn bytes(len: usize) -> Bytes {
    (0..len).map(|at| (at / 7 % 251) as u8).collect()
}

#[tokio::test]
async fn a_chunk_of_every_kind_of_size() {
    for len in [1, 128 << 10, MIB + 1, 16 * MIB] {
        let chunk = bytes(len);
        let parts: Vec<Bytes> = chunk.chunks(300_000).map(Bytes::copy_from_slice).collect();
        let mut server = Node::new(1, Arc::new(Serve(move |_, _| sending(len, parts.clone()))));
        let mut client = Node::new(2, nothing());
        client.link(&mut server).await;
        assert!(client.fetch(server.id, len).await == Ok(FetchedChunk::Bytes(chunk)), "{len} bytes");
    }
}

#[tokio::test]
async fn the_server_hears_who_asks_for_what() {
    let client_id = tls(2).node();
    let mut server = Node::new(
        1,
        Arc::new(Serve(move |from, asked| {
            assert_eq!((from, asked), (client_id, request(3)));
            Served::Busy
        })),
    );
    let mut client = Node::new(2, nothing());
    client.link(&mut server).await;
    assert_eq!(client.fetch(server.id, 1).await, Ok(FetchedChunk::Busy));
}

#[tokio::test]
async fn both_ends_of_a_link_may_ask() {
    let mut a = Node::new(1, Arc::new(Serve(|_, _| Served::Busy)));
    let mut b = Node::new(2, nothing());
    a.link(&mut b).await;
    assert_eq!(a.fetch(b.id, 1).await, Ok(FetchedChunk::NotHeld));
    assert_eq!(b.fetch(a.id, 1).await, Ok(FetchedChunk::Busy));
}

#[tokio::test]
async fn many_chunks_at_once() {
    let mut server = Node::new(
        1,
        Arc::new(Serve(|_, asked: ChunkRequest| {
            sending(MIB, vec![Bytes::from(vec![asked.index.0 as u8; MIB])])
        })),
    );
    let mut client = Node::new(2, nothing());
    client.link(&mut server).await;
    let fetches = (0..64).map(|index| client.endpoint.fetch(server.id, request(index), MIB as u32));
    let chunks = soon("chunks", futures_util::future::join_all(fetches)).await;
    for (index, chunk) in chunks.into_iter().enumerate() {
        assert!(chunk == Ok(FetchedChunk::Bytes(vec![index as u8; MIB].into())), "chunk {index}");
    }
}

#[tokio::test]
async fn a_server_that_fails_midway_is_told_from_a_liar() {
    let failing = |_: NodeId, _| {
        let parts = [Ok(Bytes::from(vec![0; 1000])), Err(std::io::Error::other("disk"))];
        Served::Sending { len: 2000, body: Box::pin(futures_util::stream::iter(parts)) }
    };
    let mut server = Node::new(1, Arc::new(Serve(failing)));
    let mut client = Node::new(2, nothing());
    client.link(&mut server).await;
    assert_eq!(client.fetch(server.id, 2000).await, Err(FetchError::Aborted(server.id)));
    assert_eq!(client.endpoint.links().len(), 1);
    assert_eq!(client.fetch(NodeId::from_bytes([9; 32]), 1).await.unwrap_err().to_string(), {
        FetchError::NotConnected(NodeId::from_bytes([9; 32])).to_string()
    });
}

#[tokio::test]
async fn over_ipv6() {
    let mut v6 = config();
    v6.listen = "[::1]:0".parse().unwrap();
    let mut server = Node::with(v6.clone(), &tls(1), nothing());
    let mut client = Node::with(v6, &tls(2), nothing());
    client.link(&mut server).await;
    assert_eq!(client.fetch(server.id, 1).await, Ok(FetchedChunk::NotHeld));
}

#[tokio::test]
async fn addresses_of_another_family_are_passed_over() {
    let mut server = Node::new(1, nothing());
    let mut client = Node::new(2, nothing());
    let mut info = server.info();
    info.addresses.insert(0, "[::1]:9".parse().unwrap());
    soon("a link", client.endpoint.connect(info)).await.unwrap();
    client.event().await;
    server.event().await;
}
