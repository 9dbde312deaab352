//! What is written is read again; what nobody wrote is refused without a panic.

use proptest::prelude::*;
use prost::Message;

use super::arbitrary::*;
use super::v1;
use crate::message::{ChunkReply, NodeMessage, PeerMessage, PeerRequest, TrackerMessage};
use crate::{SignedAttestation, SignedEntry};

proptest! {
    #[test]
    fn every_node_message(message in node_message()) {
        let bytes = v1::NodeMessage::from(&message).encode_to_vec();
        let wire = v1::NodeMessage::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(NodeMessage::try_from(wire).unwrap(), message);
    }

    #[test]
    fn every_tracker_message(message in tracker_message()) {
        let bytes = v1::TrackerMessage::from(&message).encode_to_vec();
        let wire = v1::TrackerMessage::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(TrackerMessage::try_from(wire).unwrap(), message);
    }

    #[test]
    fn every_peer_message(message in peer_message()) {
        prop_assert_eq!(PeerMessage::decode(&message.encode()).unwrap(), message);
    }

    #[test]
    fn every_request_and_reply(request in peer_request(), reply in chunk_reply()) {
        prop_assert_eq!(PeerRequest::decode(&request.encode()).unwrap(), request);
        prop_assert_eq!(ChunkReply::decode(&reply.encode()).unwrap(), reply);
    }

    #[test]
    fn claims_that_are_kept_by_themselves(entry in signed_entry(), attestation in attestation()) {
        prop_assert_eq!(SignedEntry::from_bytes(&entry.to_bytes()).unwrap(), entry);
        prop_assert_eq!(SignedAttestation::from_bytes(&attestation.to_bytes()).unwrap(), attestation);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_as_everything(&bytes);
    }

    // Bytes that are nearly a message reach further into the conversions than random ones.
    #[test]
    fn damaged_messages_do_no_harm(
        node in node_message(),
        tracker in tracker_message(),
        peer in peer_message(),
        at in any::<prop::sample::Index>(),
        change in any::<u8>(),
    ) {
        let messages = [
            v1::NodeMessage::from(&node).encode_to_vec(),
            v1::TrackerMessage::from(&tracker).encode_to_vec(),
            peer.encode(),
        ];
        for mut bytes in messages {
            let at = at.index(bytes.len().max(1));
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= change;
            }
            read_as_everything(&bytes);
            bytes.truncate(at);
            read_as_everything(&bytes);
        }
    }
}

fn read_as_everything(bytes: &[u8]) {
    let _ = v1::NodeMessage::decode(bytes).map(NodeMessage::try_from);
    let _ = v1::TrackerMessage::decode(bytes).map(TrackerMessage::try_from);
    let _ = PeerMessage::decode(bytes);
    let _ = PeerRequest::decode(bytes);
    let _ = ChunkReply::decode(bytes);
    let _ = SignedEntry::from_bytes(bytes);
    let _ = SignedAttestation::from_bytes(bytes);
}
