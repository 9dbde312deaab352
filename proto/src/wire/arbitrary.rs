//! Any message that the wire can carry, for property tests.

use std::net::SocketAddr;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::Union;

use crate::message::*;
use crate::{
    Attestation, ChunkIndex, ChunkSet, ChunkValue, Digest, Entry, LeaseToken, NodeId, RegistryName,
    SignedAttestation, SignedEntry, SwarmId,
};

fn bytes<const N: usize>() -> impl Strategy<Value = [u8; N]> {
    vec(any::<u8>(), N).prop_map(|bytes| bytes.try_into().unwrap())
}

fn digest() -> impl Strategy<Value = Digest> {
    let sha512 = bytes::<64>().prop_map(|hash| Digest::from_hash(crate::Algorithm::Sha512, &hash).unwrap());
    prop_oneof![bytes().prop_map(Digest::sha256), sha512]
}

fn registry() -> impl Strategy<Value = RegistryName> {
    prop::sample::select(vec!["docker.io", "registry.example.com:5000", "[::1]:5000"])
        .prop_map(|name| name.parse().unwrap())
}

fn name() -> impl Strategy<Value = Box<str>> {
    prop_oneof![Just(String::new()), ".{1,8}", Just("é".repeat(limit::NAME))].prop_map(String::into)
}

fn swarm() -> impl Strategy<Value = SwarmId> {
    let size = prop_oneof![0..64u64 << 20, Just(crate::MAX_BLOB_SIZE)];
    (digest(), size, registry(), any::<u32>()).prop_map(|(digest, size, origin, round)| SwarmId {
        digest,
        size,
        origin,
        round,
    })
}

/// A swarm of a blob that is not empty.
fn filled() -> impl Strategy<Value = SwarmId> {
    swarm().prop_map(|swarm| SwarmId { size: swarm.size.max(1), ..swarm })
}

fn count(swarm: &SwarmId) -> u32 {
    swarm.layout().unwrap().count()
}

fn node() -> impl Strategy<Value = NodeId> {
    bytes().prop_map(NodeId::from_bytes)
}

fn token() -> impl Strategy<Value = LeaseToken> {
    any::<(u64, u64)>().prop_map(|(epoch, counter)| LeaseToken { epoch, counter })
}

fn duration() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_millis)
}

fn peer() -> impl Strategy<Value = PeerInfo> {
    let v4 = any::<([u8; 4], u16)>().prop_map(SocketAddr::from);
    let v6 = any::<([u16; 8], u16)>().prop_map(SocketAddr::from);
    (node(), vec(prop_oneof![v4, v6], 0..=limit::ADDRESSES), name(), name())
        .prop_map(|(node, addresses, zone, rack)| PeerInfo { node, addresses, place: Place { zone, rack } })
}

fn chunk(swarm: &SwarmId) -> impl Strategy<Value = ChunkIndex> + use<> {
    (0..count(swarm)).prop_map(ChunkIndex)
}

fn held(swarm: &SwarmId) -> impl Strategy<Value = Held> + use<> {
    let len = count(swarm);
    let some = vec(any::<u32>(), 0..20).prop_map(move |numbers| {
        let mut set = ChunkSet::empty(len);
        for number in numbers {
            set.insert(ChunkIndex(number % len.max(1)));
        }
        Held::Some(set)
    });
    prop_oneof![some, Just(Held::Complete)]
}

fn entry(swarm: SwarmId) -> impl Strategy<Value = SignedEntry> {
    (chunk(&swarm), bytes(), token(), node(), bytes()).prop_map(
        move |(index, value, token, signer, signature)| {
            let entry = Entry { swarm: swarm.clone(), index, value: ChunkValue(value), token, signer };
            SignedEntry::new(entry, signature)
        },
    )
}

fn entries() -> impl Strategy<Value = (SwarmId, Vec<SignedEntry>)> {
    filled().prop_flat_map(|swarm| (Just(swarm.clone()), vec(entry(swarm), 0..5)))
}

fn chunks() -> impl Strategy<Value = (SwarmId, Vec<ChunkIndex>)> {
    let of = |swarm: SwarmId| {
        let most = count(&swarm).min(5) as usize;
        (Just(swarm.clone()), vec(chunk(&swarm), 0..=most))
    };
    filled().prop_flat_map(of)
}

fn attestation_of(swarm: SwarmId) -> impl Strategy<Value = SignedAttestation> {
    (bytes(), node(), bytes()).prop_map(move |(root, signer, signature)| SignedAttestation {
        attestation: Attestation { swarm: swarm.clone(), root, signer },
        signature,
    })
}

pub(super) fn attestation() -> impl Strategy<Value = SignedAttestation> {
    swarm().prop_flat_map(attestation_of)
}

pub(super) fn signed_entry() -> impl Strategy<Value = SignedEntry> {
    filled().prop_flat_map(entry)
}

fn tag_record() -> impl Strategy<Value = TagRecord> {
    (registry(), name(), name(), digest(), 0..=crate::MAX_BLOB_SIZE, name(), duration()).prop_map(
        |(registry, repository, tag, digest, size, media_type, age)| TagRecord {
            registry,
            repository,
            tag,
            digest,
            size,
            media_type,
            age,
        },
    )
}

fn membership() -> impl Strategy<Value = Membership> {
    swarm().prop_flat_map(|swarm| (Just(swarm.clone()), held(&swarm), any::<[bool; 3]>())).prop_map(
        |(swarm, held, [wants, may_lease, shareable])| Membership {
            swarm,
            held,
            wants,
            may_lease,
            shareable,
        },
    )
}

fn failure() -> impl Strategy<Value = LeaseFailure> {
    prop_oneof![
        Just(LeaseFailure::Refused),
        Just(LeaseFailure::Unreachable),
        Just(LeaseFailure::Abandoned),
        duration().prop_map(LeaseFailure::Throttled),
    ]
}

/// A strategy for each kind of message; the compiler does not see it when one is forgotten, reviewers must.
pub(super) fn node_message() -> impl Strategy<Value = NodeMessage> {
    use NodeMessage::*;
    Union::new([
        peer().prop_map(Hello).boxed(),
        vec(membership(), 0..5).prop_map(Join).boxed(),
        vec(swarm(), 0..5).prop_map(Leave).boxed(),
        Just(Reported).boxed(),
        (entries(), token()).prop_map(|((swarm, entries), token)| Progress { swarm, token, entries }).boxed(),
        (swarm(), token(), failure()).prop_map(|(swarm, token, why)| Return { swarm, token, why }).boxed(),
        attestation().prop_map(Complete).boxed(),
        swarm().prop_map(Mismatch).boxed(),
        chunks().prop_map(|(swarm, chunks)| Starved { swarm, chunks }).boxed(),
        tag_record().prop_map(Tag).boxed(),
        (any::<u64>(), registry(), name(), name())
            .prop_map(|(request, registry, repository, tag)| TagLookup { request, registry, repository, tag })
            .boxed(),
        (registry(), name(), any::<bool>())
            .prop_map(|(registry, repository, open)| Anonymous { registry, repository, open })
            .boxed(),
        (any::<u64>(), registry(), name())
            .prop_map(|(request, registry, repository)| AnonymousLookup { request, registry, repository })
            .boxed(),
    ])
}

fn lease() -> impl Strategy<Value = crate::message::Lease> {
    let kind = prop_oneof![Just(LeaseKind::Origin), peer().prop_map(LeaseKind::Zone)];
    (filled(), token(), any::<(u32, u32)>(), kind, duration()).prop_map(|(swarm, token, at, kind, lasts)| {
        let start = at.0 % count(&swarm);
        let end = start + 1 + at.1 % (count(&swarm) - start);
        crate::message::Lease { swarm, token, chunks: start..end, kind, lasts }
    })
}

pub(super) fn tracker_message() -> impl Strategy<Value = TrackerMessage> {
    use TrackerMessage::*;
    Union::new([
        (any::<u64>(), duration())
            .prop_map(|(epoch, report_within)| Welcome { epoch, report_within })
            .boxed(),
        (swarm(), vec(peer(), 0..3)).prop_map(|(swarm, peers)| Neighbours { swarm, peers }).boxed(),
        lease().prop_map(Lease).boxed(),
        (swarm(), token()).prop_map(|(swarm, token)| Revoke { swarm, token }).boxed(),
        entries().prop_map(|(swarm, entries)| Entries { swarm, entries }).boxed(),
        attestation().prop_map(Attested).boxed(),
        (swarm(), vec(node(), 0..3)).prop_map(|(swarm, readers)| Round { swarm, readers }).boxed(),
        (any::<u64>(), prop::option::of(tag_record()))
            .prop_map(|(request, record)| TagFound { request, record })
            .boxed(),
        any::<(u64, bool)>().prop_map(|(request, known)| AnonymousFound { request, known }).boxed(),
    ])
}

fn proof(swarm: SwarmId) -> impl Strategy<Value = Proof> {
    let values = vec![ChunkValue([7; 32]); count(&swarm) as usize];
    let map = attestation_of(swarm.clone()).prop_map(move |attestation| Proof::Map {
        values: values.clone(),
        attestation: Box::new(attestation),
    });
    prop_oneof![vec(entry(swarm), 0..5).prop_map(Proof::Entries), map]
}

pub(super) fn peer_message() -> impl Strategy<Value = PeerMessage> {
    use PeerMessage::*;
    let state = filled().prop_flat_map(|swarm| (Just(swarm.clone()), held(&swarm), proof(swarm)));
    Union::new([
        state.prop_map(|(swarm, held, proof)| State { swarm, held, proof }).boxed(),
        entries().prop_map(|(swarm, entries)| Have { swarm, entries }).boxed(),
        chunks().prop_map(|(swarm, chunks)| HaveIndexes { swarm, chunks }).boxed(),
        swarm().prop_map(Complete).boxed(),
        chunks().prop_map(|(swarm, chunks)| Forget { swarm, chunks }).boxed(),
        Just(Free).boxed(),
        swarm().prop_map(Leave).boxed(),
    ])
}

pub(super) fn peer_request() -> impl Strategy<Value = PeerRequest> {
    let chunk = filled()
        .prop_flat_map(|swarm| (Just(swarm.clone()), chunk(&swarm)))
        .prop_map(|(swarm, index)| PeerRequest::Chunk(ChunkRequest { swarm, index }));
    let part = prop_oneof![Just(Part::Layer), digest().prop_map(Part::Index), Just(Part::Claim)];
    let range = (filled(), part, any::<prop::sample::Index>(), 1..=limit::RANGE).prop_map(
        |(swarm, part, start, len)| {
            let start = start.index(usize::try_from(swarm.size).unwrap()) as u64;
            let end = start.saturating_add(len).min(swarm.size);
            PeerRequest::Range(RangeRequest { swarm, part, range: start..end })
        },
    );
    prop_oneof![chunk, range]
}

pub(super) fn chunk_reply() -> impl Strategy<Value = ChunkReply> {
    prop_oneof![
        any::<u32>().prop_map(|len| ChunkReply::Sending { len }),
        Just(ChunkReply::Busy),
        Just(ChunkReply::NotHeld),
    ]
}
