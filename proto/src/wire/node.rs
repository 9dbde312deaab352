//! [`NodeMessage`]: from a node to its tracker.

use std::time::Duration;

use super::swarm::{chunks, chunks_to_wire, entries, entries_to_wire, held, swarm, token};
use super::v1::node_message::Message as Wire;
use super::{Of, Refusal, WireError, millis, name, records, records_to_wire, v1};
use crate::ChunkLayout;
use crate::message::{LeaseFailure, Membership, NodeMessage, TagRecord, limit};

impl From<&Membership> for v1::Membership {
    fn from(member: &Membership) -> Self {
        Self {
            swarm: Some((&member.swarm).into()),
            held: Some((&member.held).into()),
            wants: member.wants,
            may_lease: member.may_lease,
            shareable: member.shareable,
        }
    }
}

impl TryFrom<v1::Membership> for Membership {
    type Error = WireError;

    fn try_from(wire: v1::Membership) -> Result<Self, WireError> {
        let (swarm, layout) = swarm(wire.swarm)?;
        let held = held(&layout, wire.held)?;
        let (wants, may_lease, shareable) = (wire.wants, wire.may_lease, wire.shareable);
        Ok(Self { swarm, held, wants, may_lease, shareable })
    }
}

impl From<&TagRecord> for v1::TagRecord {
    fn from(record: &TagRecord) -> Self {
        Self {
            registry: record.registry.to_string(),
            repository: record.repository.to_string(),
            tag: record.tag.to_string(),
            digest: Some((&record.digest).into()),
            size: record.size,
            media_type: record.media_type.to_string(),
            age_ms: millis(record.age),
        }
    }
}

impl TryFrom<v1::TagRecord> for TagRecord {
    type Error = WireError;

    fn try_from(wire: v1::TagRecord) -> Result<Self, WireError> {
        ChunkLayout::new(wire.size).of("size of the manifest")?;
        Ok(Self {
            registry: wire.registry.parse().of("registry")?,
            repository: name("repository", wire.repository)?,
            tag: name("tag", wire.tag)?,
            digest: wire.digest.of("digest")?.try_into()?,
            size: wire.size,
            media_type: name("media type", wire.media_type)?,
            age: Duration::from_millis(wire.age_ms),
        })
    }
}

/// The failure and, where it is a throttling, its duration.
fn failure_to_wire(why: LeaseFailure) -> (v1::LeaseFailure, u64) {
    match why {
        LeaseFailure::Refused => (v1::LeaseFailure::Refused, 0),
        LeaseFailure::Unreachable => (v1::LeaseFailure::Unreachable, 0),
        LeaseFailure::Throttled(wait) => (v1::LeaseFailure::Throttled, millis(wait)),
        LeaseFailure::Abandoned => (v1::LeaseFailure::Abandoned, 0),
    }
}

fn failure(wire: v1::LeaseFailure, throttled_ms: u64) -> Option<LeaseFailure> {
    Some(match wire {
        v1::LeaseFailure::Unspecified => return None,
        v1::LeaseFailure::Refused => LeaseFailure::Refused,
        v1::LeaseFailure::Unreachable => LeaseFailure::Unreachable,
        v1::LeaseFailure::Throttled => LeaseFailure::Throttled(Duration::from_millis(throttled_ms)),
        v1::LeaseFailure::Abandoned => LeaseFailure::Abandoned,
    })
}

impl From<&NodeMessage> for v1::NodeMessage {
    fn from(message: &NodeMessage) -> Self {
        let wire = match message {
            NodeMessage::Hello(peer) => Wire::Hello(peer.into()),
            NodeMessage::Join(members) => {
                let memberships = records_to_wire(members.iter().map(v1::Membership::from));
                Wire::Join(v1::Join { memberships })
            }
            NodeMessage::Leave(swarms) => {
                Wire::Leave(v1::Leave { swarms: records_to_wire(swarms.iter().map(v1::Swarm::from)) })
            }
            NodeMessage::Reported => Wire::Reported(v1::Reported {}),
            NodeMessage::Progress { swarm, token, entries } => Wire::Progress(v1::Progress {
                swarm: Some(swarm.into()),
                token: Some(token.into()),
                entries: entries_to_wire(swarm, entries),
            }),
            NodeMessage::Return { swarm, token, why } => {
                let (why, throttled_ms) = failure_to_wire(*why);
                let (swarm, token) = (Some(swarm.into()), Some(token.into()));
                Wire::Return(v1::Return { swarm, token, why: why.into(), throttled_ms })
            }
            NodeMessage::Complete(signed) => Wire::Complete(signed.into()),
            NodeMessage::Mismatch(swarm) => Wire::Mismatch(swarm.into()),
            NodeMessage::Starved { swarm, chunks } => Wire::Starved(chunks_to_wire(swarm, chunks)),
            NodeMessage::Tag(record) => Wire::Tag(record.into()),
            NodeMessage::TagLookup { request, registry, repository, tag } => Wire::TagLookup(v1::TagLookup {
                request: *request,
                registry: registry.to_string(),
                repository: repository.to_string(),
                tag: tag.to_string(),
            }),
            NodeMessage::Anonymous { registry, repository, open } => Wire::Anonymous(v1::Anonymous {
                registry: registry.to_string(),
                repository: repository.to_string(),
                closed: !open,
            }),
            NodeMessage::AnonymousLookup { request, registry, repository } => {
                Wire::AnonymousLookup(v1::AnonymousLookup {
                    request: *request,
                    registry: registry.to_string(),
                    repository: repository.to_string(),
                })
            }
        };
        Self { message: Some(wire) }
    }
}

fn join(wire: v1::Join) -> Result<NodeMessage, WireError> {
    records::<v1::Membership, _>("memberships", &wire.memberships, limit::SWARMS).map(NodeMessage::Join)
}

fn leave(wire: v1::Leave) -> Result<NodeMessage, WireError> {
    records::<v1::Swarm, _>("swarms", &wire.swarms, limit::SWARMS).map(NodeMessage::Leave)
}

fn progress(wire: v1::Progress) -> Result<NodeMessage, WireError> {
    let (swarm, layout) = swarm(wire.swarm)?;
    let entries = entries(&swarm, &layout, &wire.entries)?;
    Ok(NodeMessage::Progress { swarm, token: token(wire.token)?, entries })
}

fn give_back(wire: v1::Return) -> Result<NodeMessage, WireError> {
    let known = v1::LeaseFailure::try_from(wire.why).ok();
    let why = known.and_then(|why| failure(why, wire.throttled_ms)).ok_or(Refusal::Unknown).of("why")?;
    Ok(NodeMessage::Return { swarm: swarm(wire.swarm)?.0, token: token(wire.token)?, why })
}

impl TryFrom<v1::NodeMessage> for NodeMessage {
    type Error = WireError;

    fn try_from(wire: v1::NodeMessage) -> Result<Self, WireError> {
        Ok(match wire.message.of("node message")? {
            Wire::Hello(peer) => Self::Hello(peer.try_into()?),
            Wire::Join(wire) => join(wire)?,
            Wire::Leave(wire) => leave(wire)?,
            Wire::Reported(_) => Self::Reported,
            Wire::Progress(wire) => progress(wire)?,
            Wire::Return(wire) => give_back(wire)?,
            Wire::Complete(signed) => Self::Complete(signed.try_into()?),
            Wire::Mismatch(swarm) => Self::Mismatch(swarm.try_into()?),
            Wire::Starved(wire) => {
                let (swarm, chunks) = chunks(wire)?;
                Self::Starved { swarm, chunks }
            }
            Wire::Tag(record) => Self::Tag(record.try_into()?),
            Wire::TagLookup(wire) => Self::TagLookup {
                request: wire.request,
                registry: wire.registry.parse().of("registry")?,
                repository: name("repository", wire.repository)?,
                tag: name("tag", wire.tag)?,
            },
            Wire::Anonymous(wire) => Self::Anonymous {
                registry: wire.registry.parse().of("registry")?,
                repository: name("repository", wire.repository)?,
                open: !wire.closed,
            },
            Wire::AnonymousLookup(wire) => Self::AnonymousLookup {
                request: wire.request,
                registry: wire.registry.parse().of("registry")?,
                repository: name("repository", wire.repository)?,
            },
        })
    }
}
