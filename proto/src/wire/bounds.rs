//! Each bound on a message is refused when it is broken by one, and the refusal names what broke it.

use std::time::Duration;

use super::v1::node_message::Message as ToTracker;
use super::v1::tracker_message::Message as ToNode;
use super::v1::{self, peer_message::Message as ToPeer};
use super::{Refusal, WireError, records_to_wire};
use crate::message::{LeaseFailure, NodeMessage, PeerMessage, RangeRequest, TrackerMessage, limit};
use crate::{
    Attestation, ChunkValue, Digest, Entry, LeaseToken, NodeId, SignedAttestation, SignedEntry, SwarmId,
};

/// The swarm of a blob of four chunks.
fn swarm() -> SwarmId {
    SwarmId {
        digest: Digest::sha256([1; 32]),
        size: 4 * crate::MIN_CHUNK,
        origin: "docker.io".parse().unwrap(),
        round: 0,
    }
}

fn wire_swarm() -> v1::Swarm {
    (&swarm()).into()
}

fn some_swarm() -> Option<v1::Swarm> {
    Some(wire_swarm())
}

fn peer() -> v1::PeerInfo {
    v1::PeerInfo { node: vec![1; 32], ..Default::default() }
}

fn token() -> Option<v1::LeaseToken> {
    Some(v1::LeaseToken { epoch: 1, counter: 1 })
}

fn tag_record() -> v1::TagRecord {
    v1::TagRecord { registry: "docker.io".into(), digest: wire_swarm().digest, ..Default::default() }
}

fn to_tracker(message: ToTracker) -> Result<NodeMessage, WireError> {
    v1::NodeMessage { message: Some(message) }.try_into()
}

fn to_node(message: ToNode) -> Result<TrackerMessage, WireError> {
    v1::TrackerMessage { message: Some(message) }.try_into()
}

fn to_peer(message: ToPeer) -> Result<PeerMessage, WireError> {
    v1::PeerMessage { message: Some(message) }.try_into()
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, WireError>, what: &str) -> Refusal {
    let error = result.unwrap_err();
    assert_eq!(error.what, what, "{error}");
    error.why
}

#[track_caller]
fn too_many<T: std::fmt::Debug>(result: Result<T, WireError>, what: &str) {
    assert!(matches!(refused(result, what), Refusal::TooMany { .. }));
}

fn join(count: usize) -> ToTracker {
    let held = Some(v1::Held { complete: true, chunks: vec![] });
    let member = v1::Membership { swarm: some_swarm(), held, ..Default::default() };
    ToTracker::Join(v1::Join { memberships: records_to_wire(std::iter::repeat_n(member, count)) })
}

fn entry(index: u32) -> SignedEntry {
    let entry = Entry {
        swarm: swarm(),
        index: crate::ChunkIndex(index),
        value: ChunkValue([2; 32]),
        token: LeaseToken { epoch: 1, counter: 2 },
        signer: NodeId::from_bytes([3; 32]),
    };
    SignedEntry::new(entry, [4; 64])
}

fn have(entries: Vec<SignedEntry>) -> PeerMessage {
    PeerMessage::Have { swarm: swarm(), entries }
}

#[test]
fn swarms_of_a_message() {
    assert!(to_tracker(join(limit::SWARMS)).is_ok());
    too_many(to_tracker(join(limit::SWARMS + 1)), "memberships");
    let swarms = |count| records_to_wire(std::iter::repeat_n(wire_swarm(), count));
    let leave = |count| to_tracker(ToTracker::Leave(v1::Leave { swarms: swarms(count) }));
    assert!(leave(limit::SWARMS).is_ok());
    too_many(leave(limit::SWARMS + 1), "swarms");
}

#[test]
fn peers_and_their_addresses() {
    let peers = |count| {
        let peers = records_to_wire(std::iter::repeat_n(peer(), count));
        to_node(ToNode::Neighbours(v1::Neighbours { swarm: some_swarm(), peers }))
    };
    assert!(peers(limit::PEERS).is_ok());
    too_many(peers(limit::PEERS + 1), "peers");

    let round =
        |count| to_node(ToNode::Round(v1::Round { swarm: some_swarm(), readers: vec![1; 32 * count] }));
    assert!(round(limit::READERS).is_ok());
    too_many(round(limit::READERS + 1), "readers");

    let hello = |addresses| to_tracker(ToTracker::Hello(v1::PeerInfo { addresses, ..peer() }));
    assert!(hello("[::1]:1 ".repeat(limit::ADDRESSES)).is_ok());
    too_many(hello("[::1]:1 ".repeat(limit::ADDRESSES + 1)), "addresses");
    assert_eq!(refused(hello("localhost:1".into()), "addresses"), Refusal::Address);

    let short = v1::PeerInfo { node: vec![1; 31], ..peer() };
    assert!(matches!(refused(to_tracker(ToTracker::Hello(short)), "node"), Refusal::Node(_)));
}

#[test]
fn names_are_counted_in_characters() {
    let zone = |zone| to_tracker(ToTracker::Hello(v1::PeerInfo { zone, ..peer() }));
    assert!(zone("é".repeat(limit::NAME)).is_ok());
    too_many(zone("é".repeat(limit::NAME + 1)), "zone");
    let rack = v1::PeerInfo { rack: "r".repeat(limit::NAME + 1), ..peer() };
    too_many(to_tracker(ToTracker::Hello(rack)), "rack");
    let long = || "n".repeat(limit::NAME + 1);
    let tag = |record| to_tracker(ToTracker::Tag(record));
    assert!(tag(tag_record()).is_ok());
    too_many(tag(v1::TagRecord { repository: long(), ..tag_record() }), "repository");
    too_many(tag(v1::TagRecord { tag: long(), ..tag_record() }), "tag");
    too_many(tag(v1::TagRecord { media_type: long(), ..tag_record() }), "media type");
    assert!(matches!(
        refused(tag(v1::TagRecord { registry: "a/b".into(), ..tag_record() }), "registry"),
        Refusal::Registry(_)
    ));
}

#[test]
fn sizes_of_blobs_and_manifests() {
    let size = crate::MAX_BLOB_SIZE;
    let mismatch = |size| to_tracker(ToTracker::Mismatch(v1::Swarm { size, ..wire_swarm() }));
    assert!(mismatch(size).is_ok());
    assert!(matches!(refused(mismatch(size + 1), "size of the blob"), Refusal::Size(_)));
    let tag = |size| to_tracker(ToTracker::Tag(v1::TagRecord { size, ..tag_record() }));
    assert!(tag(size).is_ok());
    assert!(matches!(refused(tag(size + 1), "size of the manifest"), Refusal::Size(_)));
}

#[test]
fn digests_and_origins() {
    let digest = |hash| {
        let digest = Some(v1::Digest { hash });
        to_tracker(ToTracker::Mismatch(v1::Swarm { digest, ..wire_swarm() }))
    };
    use v1::digest::Hash::{Sha256, Sha512};
    assert_eq!(refused(digest(None), "digest"), Refusal::Missing);
    assert!(matches!(refused(digest(Some(Sha256(vec![0; 31]))), "digest"), Refusal::Length { .. }));
    assert!(matches!(refused(digest(Some(Sha512(vec![0; 32]))), "digest"), Refusal::Length { .. }));
    let origin = v1::Swarm { origin: "docker.io/library".into(), ..wire_swarm() };
    assert!(matches!(refused(to_tracker(ToTracker::Mismatch(origin)), "origin"), Refusal::Registry(_)));
}

#[test]
fn held_chunks_have_the_length_of_the_blob() {
    let state = |complete, chunks| {
        let held = Some(v1::Held { complete, chunks });
        let proof = Some(v1::state::Proof::Entries(vec![]));
        to_peer(ToPeer::State(v1::State { swarm: some_swarm(), held, proof }))
    };
    assert!(state(false, vec![0b1111]).is_ok());
    assert!(matches!(refused(state(false, vec![0b1_0000]), "held"), Refusal::Set(_)));
    assert!(matches!(refused(state(false, vec![0, 0]), "held"), Refusal::Set(_)));
    assert!(matches!(refused(state(true, vec![0b1111]), "held"), Refusal::Length { .. }));
}

#[test]
fn maps_have_a_value_for_each_chunk() {
    let attestation = SignedAttestation {
        attestation: Attestation { swarm: swarm(), root: [1; 32], signer: NodeId::from_bytes([2; 32]) },
        signature: [3; 64],
    };
    let state = |len: usize, change: fn(&mut v1::Attestation)| {
        let mut attestation = v1::SwarmAttestation::from(&attestation).attestation.unwrap();
        change(&mut attestation);
        let map = v1::Map { values: vec![0; len], attestation: Some(attestation) };
        to_peer(ToPeer::State(v1::State {
            swarm: some_swarm(),
            held: Some(v1::Held { complete: true, chunks: vec![] }),
            proof: Some(v1::state::Proof::Map(map)),
        }))
    };
    assert!(state(4 * 32, |_| {}).is_ok());
    for len in [0, 3 * 32, 4 * 32 + 1, 5 * 32] {
        assert!(matches!(refused(state(len, |_| {}), "map"), Refusal::Length { .. }));
    }
    refused(state(4 * 32, |a| a.root.truncate(31)), "root");
    refused(state(4 * 32, |a| a.signer.truncate(31)), "signer");
    refused(state(4 * 32, |a| a.signature.truncate(63)), "signature");
}

#[test]
fn entries_are_bounded_whole_and_within_the_blob() {
    assert!(PeerMessage::decode(&have(vec![entry(3); limit::ENTRIES]).encode()).is_ok());
    too_many(PeerMessage::decode(&have(vec![entry(3); limit::ENTRIES + 1]).encode()), "entries");
    let past = PeerMessage::decode(&have(vec![entry(3), entry(4)]).encode());
    assert!(matches!(refused(past, "chunk"), Refusal::PastEnd(_)));
    let cut = v1::Have { swarm: some_swarm(), entries: vec![0; 149] };
    assert_eq!(refused(to_peer(ToPeer::Have(cut)), "entries"), Refusal::Cut(1));
}

#[test]
fn an_entry_of_another_swarm_is_left_out() {
    let mut foreign = entry(1).entry.clone();
    foreign.swarm.round = 1;
    let foreign = SignedEntry::new(foreign, [4; 64]);
    let read = PeerMessage::decode(&have(vec![foreign, entry(2)]).encode()).unwrap();
    assert_eq!(read, have(vec![entry(2)]));
}

#[test]
fn chunks_lie_within_the_blob_and_are_no_more_than_it_has() {
    let forget = |indexes| to_peer(ToPeer::Forget(v1::Chunks { swarm: some_swarm(), indexes }));
    assert!(forget(vec![0, 1, 2, 3]).is_ok());
    assert!(matches!(refused(forget(vec![4]), "chunk"), Refusal::PastEnd(_)));
    too_many(forget(vec![0; 5]), "chunks");
}

#[test]
fn leases_name_chunks_of_the_blob() {
    let lease = |start, end| {
        let (swarm, token) = (some_swarm(), token());
        to_node(ToNode::Lease(v1::Lease { swarm, token, start, end, ..Default::default() }))
    };
    assert!(lease(0, 4).is_ok());
    assert_eq!(refused(lease(2, 2), "chunks of the lease"), Refusal::Empty);
    assert_eq!(refused(lease(3, 2), "chunks of the lease"), Refusal::Empty);
    assert!(matches!(refused(lease(3, 5), "chunks of the lease"), Refusal::PastEnd(_)));
}

#[test]
fn what_is_required_must_be_there() {
    let nothing = NodeMessage::try_from(v1::NodeMessage { message: None });
    assert_eq!(refused(nothing, "node message"), Refusal::Missing);
    let no_swarm = v1::Revoke { swarm: None, token: token() };
    assert_eq!(refused(to_node(ToNode::Revoke(no_swarm)), "swarm"), Refusal::Missing);
    let no_token = v1::Revoke { swarm: some_swarm(), token: None };
    assert_eq!(refused(to_node(ToNode::Revoke(no_token)), "lease token"), Refusal::Missing);
    let no_proof = v1::State {
        swarm: some_swarm(),
        held: Some(v1::Held { complete: true, chunks: vec![] }),
        proof: None,
    };
    assert_eq!(refused(to_peer(ToPeer::State(no_proof)), "proof"), Refusal::Missing);
    for why in [0, 99] {
        let unknown = v1::Return { swarm: some_swarm(), token: token(), why, throttled_ms: 0 };
        assert_eq!(refused(to_tracker(ToTracker::Return(unknown)), "why"), Refusal::Unknown);
    }
}

#[test]
fn messages_are_bounded_before_they_are_read() {
    too_many(PeerMessage::decode(&vec![0; limit::MESSAGE + 1]), "peer message");
}

#[test]
fn the_largest_state_fits_a_message() {
    let swarm = SwarmId { size: crate::MAX_BLOB_SIZE, ..swarm() };
    let attestation =
        Attestation { swarm: swarm.clone(), root: [1; 32], signer: NodeId::from_bytes([2; 32]) };
    let state = PeerMessage::State {
        held: crate::message::Held::Complete,
        proof: crate::message::Proof::Map {
            values: vec![ChunkValue([7; 32]); 65_536],
            attestation: Box::new(SignedAttestation { attestation, signature: [3; 64] }),
        },
        swarm,
    };
    assert!(state.encode().len() <= limit::MESSAGE);
}

#[test]
fn durations_saturate() {
    let endless = NodeMessage::Return {
        swarm: swarm(),
        token: LeaseToken { epoch: 1, counter: 1 },
        why: LeaseFailure::Throttled(Duration::MAX),
    };
    let read = NodeMessage::try_from(v1::NodeMessage::from(&endless)).unwrap();
    let want = LeaseFailure::Throttled(Duration::from_millis(u64::MAX));
    assert!(matches!(read, NodeMessage::Return { why, .. } if why == want));
}

#[test]
fn no_message_decodes_into_many_small_pieces() {
    // An empty piece takes two bytes on the wire and a hundred in memory: 4 MiB would become hundreds.
    let syntax = include_str!("../../proto/shoal.proto");
    let repeated: Vec<&str> =
        syntax.lines().map(str::trim).filter(|line| line.starts_with("repeated")).collect();
    assert_eq!(repeated, ["repeated uint32 indexes = 2;"]);
}

#[test]
fn reading_stops_at_the_first_record_beyond_the_bound() {
    // What follows the bound is not even protobuf.
    let mut swarms = records_to_wire(std::iter::repeat_n(wire_swarm(), limit::SWARMS));
    swarms.resize(limit::MESSAGE, 0xff);
    too_many(to_tracker(ToTracker::Leave(v1::Leave { swarms })), "swarms");
    // Empty ones are refused at once, each for what it lacks.
    let join = v1::Join { memberships: vec![0; limit::MESSAGE] };
    assert_eq!(refused(to_tracker(ToTracker::Join(join)), "swarm"), Refusal::Missing);
}

#[test]
fn ranges_lie_within_the_layer_and_are_bounded() {
    let swarm = Some(v1::Swarm::from(&SwarmId { size: 100 << 20, ..swarm() }));
    let read = |part, start, end| {
        RangeRequest::try_from(v1::RangeRequest { swarm: swarm.clone(), part, start, end })
            .map_err(|e| e.what)
    };
    use v1::range_request::Part::{Claim, Index, Layer};
    let file = || Some(Index(v1::Digest { hash: Some(v1::digest::Hash::Sha256(vec![1; 32])) }));
    read(Some(Layer(true)), 0, limit::RANGE).unwrap();
    read(Some(Layer(true)), (100 << 20) - 1, 100 << 20).unwrap();
    // How long an index is its reader knows.
    read(file(), 200 << 20, (200 << 20) + 1).unwrap();
    read(Some(Claim(true)), 0, 200).unwrap();
    let refused = [
        (Some(Layer(true)), 0, 0),
        (file(), 5, 4),
        (file(), 0, limit::RANGE + 1),
        (Some(Layer(true)), 0, u64::MAX),
    ];
    for (part, start, end) in refused {
        assert_eq!(read(part, start, end), Err("range"));
    }
    assert_eq!(read(Some(Layer(true)), 100 << 20, (100 << 20) + 1), Err("range"));
    assert_eq!(read(None, 0, 1), Err("part"));
}
