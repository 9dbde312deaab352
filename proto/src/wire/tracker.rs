//! [`TrackerMessage`]: from a tracker to a node.

use std::time::Duration;

use super::swarm::{entries, entries_to_wire, swarm, token};
use super::v1::tracker_message::Message as Wire;
use super::{Of, Refusal, WireError, at_most, millis, records, records_to_wire, v1};
use crate::message::{Lease, LeaseKind, TrackerMessage, limit};
use crate::{ChunkIndex, NodeId};

impl From<&Lease> for v1::Lease {
    fn from(lease: &Lease) -> Self {
        let from = match &lease.kind {
            LeaseKind::Origin => None,
            LeaseKind::Zone(peer) => Some(peer.into()),
        };
        Self {
            swarm: Some((&lease.swarm).into()),
            token: Some((&lease.token).into()),
            start: lease.chunks.start,
            end: lease.chunks.end,
            from,
            lasts_ms: millis(lease.lasts),
        }
    }
}

impl TryFrom<v1::Lease> for Lease {
    type Error = WireError;

    fn try_from(wire: v1::Lease) -> Result<Self, WireError> {
        let (swarm, layout) = swarm(wire.swarm)?;
        if wire.start >= wire.end {
            return Err(Refusal::Empty).of("chunks of the lease");
        }
        if wire.end > layout.count() {
            return Err(Refusal::PastEnd(ChunkIndex(wire.end - 1))).of("chunks of the lease");
        }
        let kind = match wire.from {
            None => LeaseKind::Origin,
            Some(peer) => LeaseKind::Zone(peer.try_into()?),
        };
        Ok(Self {
            swarm,
            token: token(wire.token)?,
            chunks: wire.start..wire.end,
            kind,
            lasts: Duration::from_millis(wire.lasts_ms),
        })
    }
}

impl From<&TrackerMessage> for v1::TrackerMessage {
    fn from(message: &TrackerMessage) -> Self {
        let wire = match message {
            TrackerMessage::Welcome { epoch, report_within } => {
                Wire::Welcome(v1::Welcome { epoch: *epoch, report_within_ms: millis(*report_within) })
            }
            TrackerMessage::Neighbours { swarm, peers } => Wire::Neighbours(v1::Neighbours {
                swarm: Some(swarm.into()),
                peers: records_to_wire(peers.iter().map(v1::PeerInfo::from)),
            }),
            TrackerMessage::Lease(lease) => Wire::Lease(lease.into()),
            TrackerMessage::Revoke { swarm, token } => {
                Wire::Revoke(v1::Revoke { swarm: Some(swarm.into()), token: Some(token.into()) })
            }
            TrackerMessage::Entries { swarm, entries } => Wire::Entries(v1::Have {
                swarm: Some(swarm.into()),
                entries: entries_to_wire(swarm, entries),
            }),
            TrackerMessage::Attested(signed) => Wire::Attested(signed.into()),
            TrackerMessage::Round { swarm, readers } => Wire::Round(v1::Round {
                swarm: Some(swarm.into()),
                readers: readers.iter().flat_map(|node| *node.as_bytes()).collect(),
            }),
            TrackerMessage::TagFound { request, record } => {
                Wire::TagFound(v1::TagFound { request: *request, record: record.as_ref().map(Into::into) })
            }
            TrackerMessage::AnonymousFound { request, known } => {
                Wire::AnonymousFound(v1::AnonymousFound { request: *request, known: *known })
            }
        };
        Self { message: Some(wire) }
    }
}

fn neighbours(wire: v1::Neighbours) -> Result<TrackerMessage, WireError> {
    let peers = records::<v1::PeerInfo, _>("peers", &wire.peers, limit::PEERS)?;
    Ok(TrackerMessage::Neighbours { swarm: swarm(wire.swarm)?.0, peers })
}

fn round(wire: v1::Round) -> Result<TrackerMessage, WireError> {
    let (nodes, cut) = wire.readers.as_chunks::<32>();
    if !cut.is_empty() {
        return Err(Refusal::Cut(cut.len())).of("readers");
    }
    at_most("readers", nodes.len(), limit::READERS)?;
    let readers = nodes.iter().map(|node| NodeId::from_bytes(*node)).collect();
    Ok(TrackerMessage::Round { swarm: swarm(wire.swarm)?.0, readers })
}

impl TryFrom<v1::TrackerMessage> for TrackerMessage {
    type Error = WireError;

    fn try_from(wire: v1::TrackerMessage) -> Result<Self, WireError> {
        Ok(match wire.message.of("tracker message")? {
            Wire::Welcome(wire) => Self::Welcome {
                epoch: wire.epoch,
                report_within: Duration::from_millis(wire.report_within_ms),
            },
            Wire::Neighbours(wire) => neighbours(wire)?,
            Wire::Lease(lease) => Self::Lease(lease.try_into()?),
            Wire::Revoke(wire) => Self::Revoke { swarm: swarm(wire.swarm)?.0, token: token(wire.token)? },
            Wire::Entries(wire) => {
                let (swarm, layout) = swarm(wire.swarm)?;
                let entries = entries(&swarm, &layout, &wire.entries)?;
                Self::Entries { swarm, entries }
            }
            Wire::Attested(signed) => Self::Attested(signed.try_into()?),
            Wire::Round(wire) => round(wire)?,
            Wire::TagFound(wire) => Self::TagFound {
                request: wire.request,
                record: wire.record.map(TryInto::try_into).transpose()?,
            },
            Wire::AnonymousFound(wire) => Self::AnonymousFound { request: wire.request, known: wire.known },
        })
    }
}
