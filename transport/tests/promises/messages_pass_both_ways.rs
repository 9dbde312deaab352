use shoal_proto::message::{Held, PeerMessage, Proof, limit};
use shoal_proto::{Attestation, ChunkValue, NodeId, SignedAttestation, SwarmId};
use shoal_transport::{Bulk, LinkEvent, SendError};

use crate::support::{Node, message, nothing, request};

#[tokio::test]
async fn in_the_order_they_were_sent() {
    let mut a = Node::new(1, nothing());
    let mut b = Node::new(2, nothing());
    a.link(&mut b).await;
    for round in 0..500 {
        a.endpoint.send(b.id, &message(round)).unwrap();
        b.endpoint.send(a.id, &message(round)).unwrap();
    }
    for round in 0..500 {
        assert_eq!(b.event().await, LinkEvent::Message(a.id, message(round)));
        assert_eq!(a.event().await, LinkEvent::Message(b.id, message(round)));
    }
}

/// A state with a map of as many values as the size has chunks.
fn state(size: u64, values: usize) -> PeerMessage {
    let swarm = SwarmId { size, ..request(0).swarm };
    let attestation =
        Attestation { swarm: swarm.clone(), root: [1; 32], signer: NodeId::from_bytes([2; 32]) };
    let attestation = Box::new(SignedAttestation { attestation, signature: [3; 64] });
    let proof = Proof::Map { values: vec![ChunkValue([7; 32]); values], attestation };
    PeerMessage::State { swarm, held: Held::Complete, proof }
}

#[tokio::test]
async fn the_largest_one_passes_and_a_larger_one_is_refused() {
    let mut a = Node::new(1, nothing());
    let mut b = Node::new(2, nothing());
    a.link(&mut b).await;
    let largest = state(shoal_proto::MAX_BLOB_SIZE, 65_536);
    a.endpoint.send(b.id, &largest).unwrap();
    assert!(b.event().await == LinkEvent::Message(a.id, largest));
    let larger = state(shoal_proto::MAX_BLOB_SIZE, limit::MESSAGE / 32);
    assert!(matches!(a.endpoint.send(b.id, &larger), Err(SendError::TooLarge { .. })));
}

#[tokio::test]
async fn not_without_a_link() {
    let a = Node::new(1, nothing());
    let stranger = NodeId::from_bytes([9; 32]);
    assert_eq!(a.endpoint.send(stranger, &message(0)), Err(SendError::NotConnected(stranger)));
}

#[tokio::test]
async fn a_neighbour_that_does_not_read_loses_its_link() {
    let mut a = Node::new(1, nothing());
    let mut b = Node::new(2, nothing());
    a.link(&mut b).await;
    let large = state(shoal_proto::MAX_BLOB_SIZE, 65_536);
    // Nobody takes b's events, so its window and then a's queue fill.
    let overflow = (0..64).find_map(|_| a.endpoint.send(b.id, &large).err());
    assert_eq!(overflow, Some(SendError::Overflow(b.id)));
    assert_eq!(a.event().await, LinkEvent::Down(b.id));
}
