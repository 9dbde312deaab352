//! [`PeerMessage`], [`PeerRequest`] and [`ChunkReply`]: between neighbours.

use prost::Message;

use super::swarm::{
    attestation, attestation_to_wire, chunks, chunks_to_wire, entries, entries_to_wire, held, index, swarm,
};
use super::v1::peer_message::Message as Wire;
use super::v1::peer_request::Request as WireRequest;
use super::v1::range_request::Part as WirePart;
use super::v1::{chunk_reply::Answer, state::Proof as WireProof};
use super::{Of, Refusal, WireError, decode, v1};
use crate::message::{ChunkReply, ChunkRequest, Part, PeerMessage, PeerRequest, Proof, RangeRequest, limit};
use crate::{ChunkLayout, ChunkValue, SwarmId};

fn proof_to_wire(swarm: &SwarmId, proof: &Proof) -> WireProof {
    match proof {
        Proof::Entries(entries) => WireProof::Entries(entries_to_wire(swarm, entries)),
        Proof::Map { values, attestation } => WireProof::Map(v1::Map {
            values: values.iter().flat_map(|value| value.0).collect(),
            attestation: Some(attestation_to_wire(attestation)),
        }),
    }
}

fn proof(swarm: &SwarmId, layout: &ChunkLayout, wire: WireProof) -> Result<Proof, WireError> {
    match wire {
        WireProof::Entries(wire) => Ok(Proof::Entries(entries(swarm, layout, &wire)?)),
        WireProof::Map(wire) => {
            let (values, cut) = wire.values.as_chunks::<32>();
            let want = layout.count() as usize;
            if values.len() != want || !cut.is_empty() {
                return Err(Refusal::Length { got: wire.values.len(), want: want * 32 }).of("map");
            }
            let values = values.iter().copied().map(ChunkValue).collect();
            let attestation = Box::new(attestation(swarm.clone(), wire.attestation)?);
            Ok(Proof::Map { values, attestation })
        }
    }
}

impl From<&PeerMessage> for v1::PeerMessage {
    fn from(message: &PeerMessage) -> Self {
        let wire = match message {
            PeerMessage::State { swarm, held, proof } => Wire::State(v1::State {
                swarm: Some(swarm.into()),
                held: Some(held.into()),
                proof: Some(proof_to_wire(swarm, proof)),
            }),
            PeerMessage::Have { swarm, entries } => {
                Wire::Have(v1::Have { swarm: Some(swarm.into()), entries: entries_to_wire(swarm, entries) })
            }
            PeerMessage::HaveIndexes { swarm, chunks } => Wire::HaveIndexes(chunks_to_wire(swarm, chunks)),
            PeerMessage::Complete(swarm) => Wire::Complete(swarm.into()),
            PeerMessage::Forget { swarm, chunks } => Wire::Forget(chunks_to_wire(swarm, chunks)),
            PeerMessage::Leave(swarm) => Wire::Leave(swarm.into()),
            PeerMessage::Free => Wire::Free(v1::Free {}),
        };
        Self { message: Some(wire) }
    }
}

fn state(wire: v1::State) -> Result<PeerMessage, WireError> {
    let (swarm, layout) = swarm(wire.swarm)?;
    let held = held(&layout, wire.held)?;
    let proof = proof(&swarm, &layout, wire.proof.of("proof")?)?;
    Ok(PeerMessage::State { swarm, held, proof })
}

impl TryFrom<v1::PeerMessage> for PeerMessage {
    type Error = WireError;

    fn try_from(wire: v1::PeerMessage) -> Result<Self, WireError> {
        Ok(match wire.message.of("peer message")? {
            Wire::State(wire) => state(wire)?,
            Wire::Have(wire) => {
                let (swarm, layout) = swarm(wire.swarm)?;
                let entries = entries(&swarm, &layout, &wire.entries)?;
                Self::Have { swarm, entries }
            }
            Wire::HaveIndexes(wire) => {
                let (swarm, chunks) = chunks(wire)?;
                Self::HaveIndexes { swarm, chunks }
            }
            Wire::Complete(swarm) => Self::Complete(swarm.try_into()?),
            Wire::Forget(wire) => {
                let (swarm, chunks) = chunks(wire)?;
                Self::Forget { swarm, chunks }
            }
            Wire::Leave(swarm) => Self::Leave(swarm.try_into()?),
            Wire::Free(v1::Free {}) => Self::Free,
        })
    }
}

impl From<&ChunkRequest> for v1::ChunkRequest {
    fn from(request: &ChunkRequest) -> Self {
        Self { swarm: Some((&request.swarm).into()), index: request.index.0 }
    }
}

impl TryFrom<v1::ChunkRequest> for ChunkRequest {
    type Error = WireError;

    fn try_from(wire: v1::ChunkRequest) -> Result<Self, WireError> {
        let (swarm, layout) = swarm(wire.swarm)?;
        Ok(Self { swarm, index: index(&layout, wire.index)? })
    }
}

impl From<&RangeRequest> for v1::RangeRequest {
    fn from(request: &RangeRequest) -> Self {
        let part = match &request.part {
            Part::Layer => WirePart::Layer(true),
            Part::Index(file) => WirePart::Index(file.into()),
            Part::Claim => WirePart::Claim(true),
        };
        let swarm = Some((&request.swarm).into());
        Self { swarm, part: Some(part), start: request.range.start, end: request.range.end }
    }
}

impl TryFrom<v1::RangeRequest> for RangeRequest {
    type Error = WireError;

    fn try_from(wire: v1::RangeRequest) -> Result<Self, WireError> {
        let (swarm, _) = swarm(wire.swarm)?;
        let part = match wire.part.of("part")? {
            WirePart::Layer(_) => Part::Layer,
            WirePart::Index(file) => Part::Index(file.try_into()?),
            WirePart::Claim(_) => Part::Claim,
        };
        let range = wire.start..wire.end;
        let len = range.end.checked_sub(range.start).filter(|len| *len > 0).ok_or(Refusal::Empty);
        let len = len.of("range")?;
        if len > limit::RANGE || (part == Part::Layer && range.end > swarm.size) {
            return Err(Refusal::Range { start: range.start, end: range.end }).of("range");
        }
        Ok(Self { swarm, part, range })
    }
}

impl From<&PeerRequest> for v1::PeerRequest {
    fn from(request: &PeerRequest) -> Self {
        let request = match request {
            PeerRequest::Chunk(chunk) => WireRequest::Chunk(chunk.into()),
            PeerRequest::Range(range) => WireRequest::Range(range.into()),
        };
        Self { request: Some(request) }
    }
}

impl TryFrom<v1::PeerRequest> for PeerRequest {
    type Error = WireError;

    fn try_from(wire: v1::PeerRequest) -> Result<Self, WireError> {
        Ok(match wire.request.of("request")? {
            WireRequest::Chunk(chunk) => Self::Chunk(chunk.try_into()?),
            WireRequest::Range(range) => Self::Range(range.try_into()?),
        })
    }
}

impl From<&ChunkReply> for v1::ChunkReply {
    fn from(reply: &ChunkReply) -> Self {
        let (answer, len) = match reply {
            ChunkReply::Sending { len } => (Answer::Sending, *len),
            ChunkReply::Busy => (Answer::Busy, 0),
            ChunkReply::NotHeld => (Answer::NotHeld, 0),
        };
        Self { answer: answer.into(), len }
    }
}

impl TryFrom<v1::ChunkReply> for ChunkReply {
    type Error = WireError;

    fn try_from(wire: v1::ChunkReply) -> Result<Self, WireError> {
        match Answer::try_from(wire.answer) {
            Ok(Answer::Sending) => Ok(Self::Sending { len: wire.len }),
            Ok(Answer::Busy) => Ok(Self::Busy),
            Ok(Answer::NotHeld) => Ok(Self::NotHeld),
            Ok(Answer::Unspecified) | Err(_) => Err(Refusal::Unknown).of("chunk reply"),
        }
    }
}

/// `encode` and `decode` of a message by itself; who sends it adds the framing.
macro_rules! by_itself {
    ($($message:ident $what:literal)*) => {$(
        impl $message {
            pub fn encode(&self) -> Vec<u8> {
                v1::$message::from(self).encode_to_vec()
            }

            /// Reads one message of at most [`crate::message::limit::MESSAGE`] bytes.
            pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
                decode::<v1::$message, _>($what, bytes)
            }
        }
    )*};
}

by_itself! { PeerMessage "peer message" PeerRequest "peer request" ChunkReply "chunk reply" }
