use shoal_proto::message::{ChunkReply, PeerRequest, limit};
use shoal_transport::{Bulk, FetchError, FrameError, LinkEvent};

use crate::support::{Liar, Link, Node, framed, nothing, request, soon};

/// Asks a liar for a chunk of 100 bytes; it answers with these bytes.
async fn fetch_from_liar(answer: Vec<u8>) -> FetchError {
    let mut node = Node::new(1, nothing());
    let liar = Liar::new(2);
    let link = liar.link(&mut node).await;
    let lie = async {
        let (mut sender, _receiver) = link.connection.accept_bi().await.unwrap();
        // Fails where the node had enough before all was sent.
        let _ = sender.write_all(&answer).await;
        let _ = sender.finish();
        link.connection.closed().await;
    };
    let (fetched, ()) = tokio::join!(node.fetch(liar.id, 100), soon("the link's end", lie));
    assert_eq!(node.event().await, LinkEvent::Down(liar.id));
    fetched.unwrap_err()
}

fn head(len: u32) -> Vec<u8> {
    framed(&ChunkReply::Sending { len }.encode())
}

#[tokio::test]
async fn a_chunk_of_another_length() {
    let error = fetch_from_liar([head(101), vec![0; 101]].concat()).await;
    assert!(matches!(error, FetchError::WrongLength { announced: 101, expected: 100, .. }), "{error}");
}

#[tokio::test]
async fn more_bytes_than_announced() {
    let error = fetch_from_liar([head(100), vec![0; 101]].concat()).await;
    assert!(matches!(error, FetchError::TooLong { expected: 100, .. }), "{error}");
}

#[tokio::test]
async fn fewer_bytes_than_announced() {
    let error = fetch_from_liar([head(100), vec![0; 99]].concat()).await;
    assert!(matches!(error, FetchError::TooShort { got: 99, expected: 100, .. }), "{error}");
}

#[tokio::test]
async fn an_endless_head() {
    let error = fetch_from_liar(vec![0xff; 1 << 20]).await;
    assert!(matches!(error, FetchError::Frame { source: FrameError::TooLarge { .. }, .. }), "{error}");
}

#[tokio::test]
async fn a_head_that_is_cut() {
    for answer in [vec![], vec![0, 0], head(100)[..5].to_vec()] {
        let error = fetch_from_liar(answer).await;
        assert!(matches!(error, FetchError::Frame { source: FrameError::Cut, .. }), "{error}");
    }
}

#[tokio::test]
async fn a_head_that_is_garbage() {
    for answer in [framed(b""), framed(&[0xff; 9])] {
        let error = fetch_from_liar(answer).await;
        assert!(matches!(error, FetchError::Frame { source: FrameError::Wire(_), .. }), "{error}");
    }
}

async fn linked() -> (Node, Liar, Link) {
    let mut node = Node::new(1, nothing());
    let liar = Liar::new(2);
    let link = liar.link(&mut node).await;
    (node, liar, link)
}

#[tokio::test]
async fn requests_that_are_no_requests() {
    let good = framed(&PeerRequest::Chunk(request(3)).encode());
    let past_the_end = framed(&PeerRequest::Chunk(request(9999)).encode());
    for bad in [vec![0xff; 8], framed(&[0xff; 9]), vec![0, 0], past_the_end, [good, vec![0]].concat()] {
        let (mut node, liar, link) = linked().await;
        let (mut sender, _receiver) = link.connection.open_bi().await.unwrap();
        sender.write_all(&bad).await.unwrap();
        sender.finish().unwrap();
        assert_eq!(node.event().await, LinkEvent::Down(liar.id), "{bad:?}");
    }
}

#[tokio::test]
async fn messages_that_are_no_messages() {
    let oversize = (limit::MESSAGE as u32 + 1).to_be_bytes().to_vec();
    for bad in [oversize, framed(b""), framed(&[0xff; 9])] {
        let (mut node, liar, mut link) = linked().await;
        link.sender.write_all(&bad).await.unwrap();
        assert_eq!(node.event().await, LinkEvent::Down(liar.id), "{bad:?}");
    }
}

#[tokio::test]
async fn a_control_stream_that_ends() {
    let (mut node, liar, mut link) = linked().await;
    link.sender.finish().unwrap();
    assert_eq!(node.event().await, LinkEvent::Down(liar.id));
}

#[tokio::test]
async fn an_honest_neighbour_keeps_its_link_meanwhile() {
    let (mut node, liar, link) = linked().await;
    let mut honest = Node::new(3, nothing());
    honest.link(&mut node).await;
    link.connection.close(0u32.into(), b"");
    assert_eq!(node.event().await, LinkEvent::Down(liar.id));
    assert_eq!(node.endpoint.links().iter().map(|link| link.node).collect::<Vec<_>>(), [honest.id]);
}
